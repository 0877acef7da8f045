/** How right the model is if it answers only when it is sure: from its own evaluation on held-out questions. */

import { Chart } from "../core/chart.js";
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
        onInput=${(/** @type {InputEvent} */ event) => setCoverage(Number(/** @type {HTMLInputElement} */ (event.target).value))}
      />
      <p>Then <b class="number">${accuracy} %</b> of them are right.</p>
    </div>
    <${Chart}
      lines=${[{ name: "right", style: "llm", points: points.map((point) => ({ x: point.coverage, y: point.accuracy })) }]}
      x=${[0, 100]}
      y=${[0, 100]}
      label="Share of right responses by the share that is kept"
      xName="share of the responses that is kept, the surest first"
      format=${(/** @type {number} */ value) => `${value} %`}
      cursor=${chosen.coverage}
    />
    <p class="hint">Measured on ${questions} held-out questions after training, with questions that the passage does not answer among them.</p>
  </section>`;
}
