/** Models: what is served, how it was made, how good it is, and what it is bad at. */

import { call } from "../api/client.js";
import { Chart } from "../core/chart.js";
import { ABOUT, MODELS } from "../core/models.js";
import { html, useEffect, useState } from "../vendor/preact-htm.js";
import { weaknesses } from "./weaknesses.js";

/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").Schemas} Schemas */
/** @typedef {Record<string, any>} Metadata */

/** The rows of the comparison, worst first: `base` is the LLM before it was fine-tuned. */
const COMPARED = [
  { id: "unigram", name: "Word counts alone", style: "" },
  { id: "bigram", name: "Bigram", style: "bigram" },
  { id: "rnn", name: "LSTM", style: "rnn" },
  { id: "base", name: "LLM before fine-tuning", style: "llm" },
  { id: "llm", name: "LLM", style: "llm" },
];

/** @param {import("../types.d.ts").ViewProps} props */
export function ModelsView({ info, share }) {
  const [created, setCreated] = useState(/** @type {Record<string, number>} */ ({}));
  useEffect(() => share({ requests: [] }), [share]);
  useEffect(() => {
    const controller = new AbortController();
    call("/v1/models", null, controller.signal).then(
      (/** @type {Schemas["ModelList"]} */ list) => setCreated(Object.fromEntries(list.data.map(({ id, created: time }) => [id, time]))),
      () => {},
    );
    return () => controller.abort();
  }, [info]);
  const comparison = /** @type {Metadata} */ (info?.comparison ?? {});
  const curve = info?.models.rnn.metrics?.["curve"];
  const learned = info?.models.llm.metrics?.["curve"];
  const named = info ? weaknesses(info) : [];
  return html`<main class="view">
    <header>
      <h1>The three models</h1>
      <p class="lead">What is served here, how it was made, how good it is, and what it is bad at.</p>
    </header>
    ${info
      ? html`<div class="model-cards">
            ${MODELS.map((model) => html`<${ModelCard} key=${model} model=${model} info=${info} created=${created[model]} />`)}
          </div>
          ${named.length
            ? html`<section class="card" aria-labelledby="weak">
                <h2 id="weak">What they are bad at</h2>
                <ul class="weaknesses">${named.map((weakness) => html`<li key=${weakness}>${weakness}</li>`)}</ul>
              </section>`
            : null}
          ${comparison["models"] ? html`<${Comparison} comparison=${comparison} />` : null}
          ${isCurve(curve) ? html`<${LSTMCurve} curve=${curve} />` : null}
          ${isCurve(learned) ? html`<${LLMCurve} curve=${learned} />` : null}`
      : html`<p class="muted">Asking the service…</p>`}
  </main>`;
}

/**
 * @param {object} props
 * @param {ModelName} props.model
 * @param {Schemas["Info"]} props.info
 * @param {number | undefined} props.created Unix time
 */
function ModelCard({ model, info, created }) {
  const { tag, base_model: base, dataset, metrics, seed, git_commit: commit } = info.models[model];
  const data = /** @type {Metadata} */ (dataset ?? {});
  const measured = /** @type {Metadata} */ (metrics ?? {});
  const compared = /** @type {Metadata | undefined} */ (info.comparison["models"])?.[model] ?? {};
  const squad2 = measured["squad2"];
  /** @type {[string, string | null][]} */
  const facts = [
    ["Tag", tag],
    ["Registered", created ? new Date(created * 1000).toLocaleDateString("en", { dateStyle: "long" }) : null],
    ["Base model", base ?? null],
    ["Data", data["source"] ? `${data["source"]}${data["train_rows"] ? `, ${count(data["train_rows"])} questions` : ""}` : null],
    ["Parameters", compared.parameters ? count(compared.parameters) : null],
    ["Trained for", compared.training_seconds ? seconds(compared.training_seconds) : null],
    ["Bits per byte", number(measured["bits_per_byte"], 2)],
    ["Word perplexity", measured["word_perplexity"] ? `as unsure as among ${count(Math.round(measured["word_perplexity"]))} words` : null],
    ["Answers exactly right", measured["exact_match"] === undefined ? null : `${number(measured["exact_match"], 1)} %, words in common (F1) ${number(measured["f1"], 1)} %`],
    ["With unanswerable ones", squad2 ? `${number(squad2.exact_match, 1)} %, F1 ${number(squad2.f1, 1)} %` : null],
    ["Seed", seed === null || seed === undefined ? null : String(seed)],
    ["Commit", commit ?? null],
  ];
  return html`<section class="card model-card ${model}" aria-label=${ABOUT[model].name}>
    <h2>${ABOUT[model].name} <span class="era">${ABOUT[model].era}</span></h2>
    <p class="hint">${ABOUT[model].sees}</p>
    <dl>
      ${facts.filter(([, value]) => value !== null).map(([name, value]) => html`<div key=${name}><dt>${name}</dt><dd class="number">${value}</dd></div>`)}
    </dl>
  </section>`;
}

/** @param {{comparison: Metadata}} props */
function Comparison({ comparison }) {
  const rows = COMPARED.filter(({ id }) => comparison["models"][id]);
  const value = (/** @type {string} */ id, /** @type {string} */ metric) => Number(comparison["models"][id][metric] ?? 0);
  const fastest = Math.max(...rows.map(({ id }) => Math.log10(1 + value(id, "tokens_per_second"))));
  const speed = (/** @type {string} */ id) => `${(100 * Math.log10(1 + value(id, "tokens_per_second"))) / fastest}%`;
  const most = Math.max(...rows.map(({ id }) => value(id, "bits_per_byte")));
  return html`<section class="card comparison" aria-labelledby="comparison">
    <h2 id="comparison">Side by side, on the same held-out text</h2>
    <p class="hint">
      Beside the three: counting words without looking at any other, and the LLM before it learned to answer questions. On${" "}
      ${comparison["contexts"]} paragraphs, ${count(comparison["bytes"] ?? 0)} bytes${comparison["machine"] ? `; measured on ${comparison["machine"]}` : ""}
    </p>
    <div class="two">
      <figure>
        <figcaption><h3>Surprise <span class="hint">bits per byte, lower is better</span></h3></figcaption>
        <ol class="bars wide">
          ${rows.map(
            ({ id, name, style }) => html`<li key=${id} class=${style || "you"}>
              <span class="word">${name}</span>
              <span class="track"><span class="bar" style=${{ width: `${(100 * value(id, "bits_per_byte")) / most}%` }}></span></span>
              <span class="number">${number(value(id, "bits_per_byte"), 2)}</span>
            </li>`,
          )}
        </ol>
      </figure>
      <figure>
        <figcaption><h3>Speed <span class="hint">tokens a second, higher is better; the scale is logarithmic</span></h3></figcaption>
        <ol class="bars wide">
          ${rows.map(
            ({ id, name, style }) => html`<li key=${id} class=${style || "you"}>
              <span class="word">${name}</span>
              <span class="track"><span class="bar" style=${{ width: speed(id) }}></span></span>
              <span class="number">${count(Math.round(value(id, "tokens_per_second")))}</span>
            </li>`,
          )}
        </ol>
      </figure>
    </div>
    <${Samples} comparison=${comparison} />
  </section>`;
}

/** @param {{comparison: Metadata}} props */
function Samples({ comparison }) {
  /** @type {string[]} */
  const prompts = comparison["prompts"] ?? [];
  const prompt = prompts.at(-1);
  if (!prompt) return null;
  return html`<h3>What they wrote after “${prompt}”</h3>
    <ul class="samples">
      ${MODELS.map((model) => {
        const sample = comparison["models"][model]?.samples?.at(-1) ?? "";
        return html`<li key=${model} class=${model}><b>${ABOUT[model].name}</b><span class="serif">${prompt}${sample}…</span></li>`;
      })}
    </ul>`;
}

/** @param {{curve: {words: number, train: number, held_out: number}[]}} props losses in nats per word */
function LSTMCurve({ curve }) {
  const domain = domainOf(curve.flatMap((point) => [point.train, point.held_out]));
  const last = curve.at(-1);
  return html`<section class="card comparison" aria-labelledby="curve">
    <h2 id="curve">How the LSTM learned</h2>
    <${Chart}
      lines=${[
        { name: "training", style: "you", points: curve.map((point) => ({ x: point.words, y: point.train })) },
        { name: "held out", style: "rnn", points: curve.map((point) => ({ x: point.words, y: point.held_out })) },
      ]}
      x=${[curve[0]?.words ?? 0, last?.words ?? 1]}
      y=${domain}
      label="The LSTM's loss in training and on held-out text, at the end ${last?.train.toFixed(2)} and ${last?.held_out.toFixed(2)} nats per word"
      title="loss in nats per word"
      xName="words read in training"
      format=${(/** @type {number} */ value) => String(value)}
    />
  </section>`;
}

/** @param {{curve: {tokens: number, loss: number}[]}} props losses in nats per supervised token: those of answers, and of some plain text */
function LLMCurve({ curve }) {
  const last = curve.at(-1);
  return html`<section class="card comparison llm" aria-labelledby="learned">
    <h2 id="learned">How the LLM learned to answer</h2>
    <${Chart}
      lines=${[{ name: "training", style: "llm", points: curve.map((point) => ({ x: point.tokens, y: point.loss })) }]}
      x=${[0, last?.tokens ?? 1]}
      y=${domainOf(curve.map((point) => point.loss))}
      label="The LLM’s loss in training, from ${curve[0]?.loss.toFixed(2)} to ${last?.loss.toFixed(2)} nats for each token that it had to predict"
      title="loss in nats for each token that it had to predict: answers, and some plain text"
      xName="tokens read in training, up to ${count(last?.tokens ?? 0)}"
      format=${(/** @type {number} */ value) => String(value)}
    />
  </section>`;
}

/** @param {unknown} curve */
function isCurve(curve) {
  return Array.isArray(curve) && curve.length > 1;
}

/**
 * @param {number[]} values
 * @returns {[number, number]}
 */
function domainOf(values) {
  return [Math.floor(Math.min(...values)), Math.ceil(Math.max(...values))];
}

/** @param {number} value */
function count(value) {
  return value.toLocaleString("en");
}

/**
 * @param {unknown} value
 * @param {number} digits
 */
function number(value, digits) {
  return typeof value === "number" ? value.toFixed(digits) : null;
}

/** @param {number} value */
function seconds(value) {
  if (value < 1) return `${Math.max(1, Math.round(value * 1000))} ms`;
  return value < 120 ? `${Math.round(value)} s` : `${Math.round(value / 60)} minutes`;
}
