/** Race: one beginning, three models that continue it at the same time. */

import { call } from "../api/client.js";
import { numberField } from "../core/address.js";
import { valueOf } from "../core/fields.js";
import { ABOUT, MODELS, perModel } from "../core/models.js";
import { toAlternatives } from "../surprise/scoring.js";
import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { LaneColumn } from "./lane.js";
import { newLane, raceRequest, runLane } from "./run.js";

/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").PerModel<import("./run.js").Lane>} Lanes */

const START = "The lighthouse on the northern cape";
const TYPING_MS = 500;

/** @param {import("../types.d.ts").ViewProps} props */
export function RaceView({ fields, change, info, share }) {
  /** @type {import("./run.js").RaceSettings} */
  const settings = {
    start: fields["start"] ?? START,
    length: numberField(fields["length"], 80),
    temperature: numberField(fields["temperature"], 0.8),
    topK: numberField(fields["top_k"], 0),
    topP: numberField(fields["top_p"], 0.95),
    seed: fields["seed"] ? numberField(fields["seed"], 0) : null,
    stop: fields["stop"] ?? "",
  };
  const [lanes, setLanes] = useState(/** @type {Lanes | null} */ (null));
  const [, redraw] = useState(0);
  const [drawn, setDrawn] = useState(/** @type {number | null} */ (null));
  const controller = useRef(/** @type {AbortController | null} */ (null));
  const first = useFirstWords(settings.start);
  const isRunning = lanes !== null && MODELS.some((model) => lanes[model].ended === null);
  useEffect(() => () => controller.current?.abort(), []);
  useEffect(() => {
    const seen = { ...settings, seed: settings.seed ?? drawn };
    const { start, length, temperature, topK, topP, seed, stop } = seen;
    share({
      fields: { start, length: `${length}`, temperature: `${temperature}`, top_k: `${topK}`, top_p: `${topP}`, seed: `${seed ?? ""}`, stop },
      requests: MODELS.map((model) => ({ name: ABOUT[model].name, request: raceRequest(model, seen) })),
    });
  }, [JSON.stringify(settings), drawn]);

  const run = () => {
    controller.current?.abort();
    const current = new AbortController();
    controller.current = current;
    const seed = settings.seed ?? Math.floor(Math.random() * 2 ** 32); // known, so that this very race can be shared
    setDrawn(seed);
    const started = perModel(() => newLane(settings.start));
    setLanes(started);
    let isDrawn = false;
    const onChange = () => {
      if (isDrawn) return;
      isDrawn = true;
      requestAnimationFrame(() => ((isDrawn = false), redraw((n) => n + 1))); // pieces may come faster than frames
    };
    for (const model of MODELS) runLane(model, { ...settings, seed }, started[model], current.signal, onChange);
  };
  const [shortest, longest] = info?.limits.length ?? [1, 512];

  return html`<main class="view">
    <header>
      <h1>One beginning, three ways to go on</h1>
      <p class="lead">The three models continue your beginning at the same time, on the same machine. See who is fast, and who makes sense.</p>
    </header>
    <form
      class="card race-settings"
      onSubmit=${(/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        if (isRunning) controller.current?.abort();
        else run();
      }}
    >
      <div class="beginning">
        <label for="start">Beginning</label>
        <div class="row-of-controls nowrap">
          <input
            id="start"
            type="text"
            required
            maxlength="4000"
            value=${settings.start}
            onInput=${(/** @type {InputEvent} */ event) => change({ start: valueOf(event) })}
          />
          <button class="primary">${isRunning ? "Stop" : "Race"}</button>
        </div>
        <p class="hint">
          ${settings.start.trim().endsWith("?") ? "It ends in a question mark, so the LLM will answer it instead of continuing it." : ""}
        </p>
      </div>
      <div class="sliders">
        <${Slider} name="temperature" label="Temperature" min=${0} max=${2} step=${0.05} value=${settings.temperature} change=${change}
          says=${temperatureInWords(settings.temperature)} />
        <${Slider} name="top_k" label="Top-k" min=${0} max=${50} step=${1} value=${settings.topK} change=${change}
          says=${settings.topK ? `only the ${settings.topK} likeliest words` : "any word"} />
        <${Slider} name="top_p" label="Top-p" min=${0.05} max=${1} step=${0.05} value=${settings.topP} change=${change}
          says=${settings.topP < 1 ? `only the likeliest ${Math.round(settings.topP * 100)} % of the probability` : "all of the probability"} />
        <${Slider} name="length" label="Length" min=${shortest ?? 1} max=${longest ?? 512} step=${1} value=${settings.length} change=${change}
          says="words or tokens at most" />
        <div>
          <label for="seed">Seed</label>
          <input id="seed" type="number" min="0" max="4294967295" step="1" value=${fields["seed"] ?? ""}
            placeholder=${drawn === null ? "random" : `random: ${drawn}`}
            onInput=${(/** @type {InputEvent} */ event) => change({ seed: valueOf(event) })} />
        </div>
        <div>
          <label for="stop">Stop before</label>
          <input id="stop" type="text" placeholder="nothing" value=${settings.stop}
            onInput=${(/** @type {InputEvent} */ event) => change({ stop: valueOf(event) })} />
        </div>
      </div>
    </form>
    <div class="lanes">
      ${MODELS.map(
        (model) => html`<${LaneColumn}
          key=${model}
          model=${model}
          start=${settings.start}
          lane=${lanes?.[model] ?? null}
          text=${lanes?.[model].text}
          alternatives=${first[model] ?? []}
          sampling=${settings}
        />`,
      )}
    </div>
  </main>`;
}

/**
 * @param {object} props
 * @param {string} props.name of the field in the address
 * @param {string} props.label
 * @param {number} props.min
 * @param {number} props.max
 * @param {number} props.step
 * @param {number} props.value
 * @param {string} props.says what the value means
 * @param {(fields: Record<string, string>) => void} props.change
 */
function Slider({ name, label, min, max, step, value, says, change }) {
  return html`<div class="slider">
    <label for=${name}>${label} <output class="number" for=${name}>${value}</output></label>
    <input
      id=${name}
      type="range"
      ...${{ min, max, step, value }}
      aria-valuetext="${value}: ${says}"
      onInput=${(/** @type {InputEvent} */ event) => change({ [name]: valueOf(event) })}
    />
    <span class="hint">${says}</span>
  </div>`;
}

/** @param {number} temperature */
function temperatureInWords(temperature) {
  if (temperature === 0) return "always the likeliest word";
  if (temperature === 1) return "as it was learned";
  return temperature < 1 ? "cautious" : "daring";
}

/**
 * The most probable first words of each model. The sliders reshape them without asking again.
 *
 * @param {string} start
 */
function useFirstWords(start) {
  const [words, setWords] = useState(/** @type {Partial<Record<ModelName, import("../types.d.ts").Alternative[]>>} */ ({}));
  useEffect(() => {
    const controller = new AbortController();
    const ask = () => {
      for (const model of MODELS) {
        const body = { model, prompt: start, max_tokens: 1, temperature: 0, logprobs: 5 };
        call("/v1/completions", body, controller.signal).then(
          (completion) => {
            const top = completion.choices[0]?.logprobs?.top_logprobs[0] ?? {};
            setWords((before) => ({ ...before, [model]: toAlternatives(top).slice(0, 5) }));
          },
          () => {}, // the race itself will say what is wrong
        );
      }
    };
    const timer = start.trim() ? setTimeout(ask, TYPING_MS) : undefined;
    return () => (clearTimeout(timer), controller.abort());
  }, [start]);
  return words;
}
