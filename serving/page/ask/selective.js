/** How right the model is if it answers only when it is sure: from its own evaluation on held-out questions. */

import { Chart } from "../core/chart.js";
import { valueOf } from "../core/fields.js";
import { html, useState } from "../vendor/preact-htm.js";

/**
 * @param {object} props
 * @param {{coverage: number, accuracy: number}[]} props.points in percent, the surest answers first
 * @param {number} props.questions
 */
export function Selective({ points, questions }) {
  const [coverage, setCoverage] = useState(50);
  const chosen = points.reduce((best, point) => (Math.abs(point.coverage - coverage) < Math.abs(best.coverage - coverage) ? point : best), {
    coverage: 100,
    accuracy: points.at(-1)?.accuracy ?? 0,
  });
  const accuracy = chosen.accuracy.toFixed(0);
  return html`<section class="card selective llm" aria-labelledby="selective-title">
    <h2 id="selective-title">What if it spoke only when it is sure?</h2>
    <div class="slider">
      <label for="coverage">Keep only the surest of its responses <output class="number">${Math.round(chosen.coverage)} %</output></label>
      <input
        id="coverage"
        type="range"
        min="1"
        max="100"
        step="1"
        value=${coverage}
        onInput=${(/** @type {InputEvent} */ event) => setCoverage(Number(valueOf(event)))}
      />
      <p>Then <b class="number">${accuracy} %</b> of them are right.</p>
    </div>
    <${Chart}
      lines=${[{ name: "right", style: "llm", points: points.map((point) => ({ x: point.coverage, y: point.accuracy })) }]}
      x=${[0, 100]}
      y=${[0, 100]}
      label="Share of right responses by the share that is kept"
      title="right, in percent of the responses that are kept"
      xName="share of the responses that is kept, the surest first"
      format=${(/** @type {number} */ value) => `${value} %`}
      cursor=${chosen.coverage}
    />
    <p class="hint">
      Measured on ${questions} held-out questions after training, some of which their passage does not answer. It changes nothing in the answer above.
    </p>
  </section>`;
}

/**
 * What a threshold did to the held-out questions.
 *
 * @param {object} props
 * @param {{threshold: number, answered: number, right_answers: number}[]} props.points shares in percent
 * @param {number} props.questions
 * @param {number} props.threshold
 */
export function AtThreshold({ points, questions, threshold }) {
  const distance = (/** @type {{threshold: number}} */ point) => Math.abs(point.threshold - threshold);
  const [nearest] = [...points].sort((a, b) => distance(a) - distance(b));
  if (!nearest) return null;
  const right = nearest.answered ? `, and ${nearest.right_answers.toFixed(0)} % of those answers were right` : "";
  return html`<span class="at-threshold">With about this one it answered ${nearest.answered.toFixed(0)} % of ${questions} held-out questions${right}.</span>`;
}
