/** Ask: a passage and a question; the answer is marked in the passage, or the model says that it is not there. */

import { call } from "../api/client.js";
import { numberField } from "../core/address.js";
import { PASSAGES } from "../core/examples.js";
import { valueOf } from "../core/fields.js";
import { percent, toCharacters } from "../core/text.js";
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { AtThreshold, Selective } from "./selective.js";

/** @typedef {import("../types.d.ts").Schemas} Schemas */

const BEST = 5;
/** In a longer passage, the search for the next best answers takes many seconds. */
const LONG_PASSAGE = 3000;
const FIRST = PASSAGES[0] ?? { name: "", context: "", questions: [] };

/**
 * The model always answers, and the page declines for it: so the slider needs no new request.
 *
 * @param {string} question
 * @param {string} context
 * @returns {import("../types.d.ts").ApiRequest}
 */
function askRequest(question, context) {
  return { path: "/answer_question", body: { question, context, answers: context.length > LONG_PASSAGE ? 1 : BEST, no_answer_threshold: 1 } };
}

/** @param {import("../types.d.ts").ViewProps} props */
export function AskView({ fields, change, info, share }) {
  const context = fields["context"] ?? FIRST.context;
  const question = fields["question"] ?? FIRST.questions[0] ?? "";
  const squad2 = /** @type {Record<string, any> | undefined} */ (info?.models.llm.metrics?.["squad2"]);
  const own = typeof squad2?.["threshold"] === "number" ? squad2["threshold"] : 0.5;
  const threshold = numberField(fields["threshold"], own);
  const [answer, setAnswer] = useState(/** @type {Schemas["AnswerResponse"] | null} */ (null));
  const [asked, setAsked] = useState({ question: "", context: "" });
  const [isBusy, setBusy] = useState(false);
  const [failure, setFailure] = useState("");
  const [shown, setShown] = useState(0);

  useEffect(() => {
    const { path, body } = askRequest(question, context);
    share({
      fields: { context, question, threshold: `${threshold}` },
      requests: [{ name: "LLM", request: { path, body: { ...body, no_answer_threshold: threshold } } }],
    });
  }, [question, context, threshold]);

  const ask = async (/** @type {string} */ toAsk = question, /** @type {string} */ passage = context) => {
    setBusy(true);
    setFailure("");
    try {
      const { path, body } = askRequest(toAsk, passage);
      setAnswer(await call(path, body));
      setAsked({ question: toAsk, context: passage });
      setShown(0);
    } catch (error) {
      setAnswer(null);
      setFailure(error instanceof Error ? error.message : String(error));
    }
    setBusy(false);
  };
  useEffect(() => {
    if (question.trim() && context.trim()) ask();
  }, []);

  const example = PASSAGES.find((passage) => passage.context === context);
  const isCurrent = answer !== null && asked.context === context;
  const declines = isCurrent && answer.no_answer_probability !== null && answer.no_answer_probability > threshold;
  const candidates = !isCurrent || declines ? [] : answer.answers.length ? answer.answers : [answer];
  const marked = candidates[shown] ?? null;

  return html`<main class="view">
    <header>
      <h1>Ask a passage</h1>
      <p class="lead">The LLM was fine-tuned to answer from a text, to say how sure it is, and to say so when the text does not tell.</p>
    </header>
    <div class="ask">
      <form
        class="card stack-form"
        onSubmit=${(/** @type {SubmitEvent} */ event) => {
          event.preventDefault();
          ask();
        }}
      >
        <div>
          <label for="context">Passage</label>
          <textarea id="context" rows="7" required maxlength=${info?.limits.context_characters[1] ?? 20000} value=${context}
            onInput=${(/** @type {InputEvent} */ event) => change({ context: valueOf(event) })}></textarea>
        </div>
        <div class="chips" role="group" aria-label="Example passages">
          ${PASSAGES.map(
            (passage) => html`<button
              type="button"
              key=${passage.name}
              aria-pressed=${passage === example}
              onClick=${() => {
                const [easy = ""] = passage.questions;
                change({ context: passage.context, question: easy });
                ask(easy, passage.context);
              }}
            >${passage.name}</button>`,
          )}
        </div>
        <div>
          <label for="question">Question</label>
          <div class="row-of-controls nowrap">
            <input id="question" type="text" required maxlength=${info?.limits.question_characters[1] ?? 4000} value=${question}
              onInput=${(/** @type {InputEvent} */ event) => change({ question: valueOf(event) })} />
            <button class="primary" disabled=${isBusy}>Ask</button>
          </div>
        </div>
        ${example
          ? html`<div class="chips" role="group" aria-label="Example questions">
              ${example.questions.map(
                (candidate) => html`<button type="button" key=${candidate} aria-pressed=${candidate === question}
                  onClick=${() => (change({ question: candidate }), ask(candidate))}>${candidate}</button>`,
              )}
            </div>`
          : null}
      </form>
      <section class="card answer llm" aria-label="Answer" aria-busy=${isBusy}>
        ${failure ? html`<p class="failure" role="alert">${failure}</p>` : null}
        <div role="status">
          ${isCurrent
            ? html`<${Verdict} answer=${answer} marked=${marked} question=${asked.question} declines=${declines} />`
            : html`<p class="muted">${isBusy ? "Reading…" : "Ask a question."}</p>`}
        </div>
        <p class="passage" tabindex="0">${marked ? mark(context, marked) : context}</p>
        ${candidates.length > 1
          ? html`<ol class="candidates" aria-label="The best answers">
              ${candidates.map(
                (candidate, i) => html`<li key=${candidate.answer}>
                  <button type="button" aria-pressed=${i === shown} onClick=${() => setShown(i)}>${candidate.answer}</button>
                  <span class="track"><span class="bar" style=${{ width: `${candidate.score * 100}%` }}></span></span>
                  <span class="number">${percent(candidate.score)}</span>
                </li>`,
              )}
            </ol>`
          : null}
        ${isCurrent && answer.no_answer_probability !== null
          ? html`<div class="slider threshold">
              <label for="threshold">
                Say “Not in this passage” where that is likelier than${" "}
                <output class="number">${Math.round(threshold * 100)} %</output>
              </label>
              <input id="threshold" type="range" min="0" max="1" step="0.01" value=${threshold}
                onInput=${(/** @type {InputEvent} */ event) => change({ threshold: valueOf(event) })} />
              <p class="hint">
                Here it is <b class="number">${percent(answer.no_answer_probability)}</b> likely. The model’s own threshold is ${Math.round(own * 100)} %.
                ${squad2?.["by_threshold"] ? html`${" "}<${AtThreshold} points=${squad2["by_threshold"]} questions=${squad2["questions"]} threshold=${threshold} />` : null}
              </p>
            </div>`
          : null}
      </section>
    </div>
    ${squad2?.["selective"] ? html`<${Selective} points=${squad2["selective"]} questions=${squad2["questions"]} />` : null}
  </main>`;
}

/**
 * @param {object} props
 * @param {Schemas["AnswerResponse"]} props.answer
 * @param {Schemas["AnswerResponse"] | Schemas["AnswerCandidate"] | null} props.marked
 * @param {string} props.question
 * @param {boolean} props.declines
 */
function Verdict({ answer, marked, question, declines }) {
  if (declines || !marked || marked.answer === null) {
    return html`<p class="hint">${question}</p>
      <p class="verdict none">Not in this passage</p>
      <p class="hint">The model is <b>${percent(answer.no_answer_probability ?? 0)}</b> sure that the passage does not tell.</p>`;
  }
  return html`<p class="hint">${question}</p>
    <p class="verdict">${marked.answer}</p>
    <p class="hint">
      <b>${percent(marked.score)}</b> sure that this is exactly right.
      ${marked.start === null ? " These are its own words, not those of the passage." : null}
    </p>`;
}

/**
 * @param {string} context
 * @param {{start: number | null, end: number | null}} place in characters
 */
function mark(context, { start, end }) {
  if (start === null || end === null) return context;
  const characters = toCharacters(context);
  const part = (/** @type {number} */ from, /** @type {number | undefined} */ to) => characters.slice(from, to).join("");
  return html`${part(0, start)}<mark>${part(start, end)}</mark>${part(end, undefined)}`;
}
