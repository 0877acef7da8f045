/** Surprise: a text in three rows, every character coloured by the bits that each model spent on it. */

import { call } from "../api/client.js";
import { Chart } from "../core/chart.js";
import { EXAMPLES } from "../core/examples.js";
import { valueOf } from "../core/fields.js";
import { ABOUT, MODELS, perModel } from "../core/models.js";
import { splitWords, toCharacters, visible } from "../core/text.js";
import { html, useEffect, useMemo, useState } from "../vendor/preact-htm.js";
import { drawCard } from "./card.js";
import { Inspector } from "./inspector.js";
import { useReadings } from "./readings.js";
import { Row } from "./row.js";
import { surpriseColor } from "./scale.js";
import { bitsPerByte, chargedFrom, running, scoringRequest } from "./scoring.js";
import { changes, withoutStruck } from "./striking.js";

/** @typedef {import("../types.d.ts").Alternative} Alternative */
/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").Piece} Piece */
/** @typedef {import("./striking.js").Range} Range */

const TYPING_MS = 500;
const CONTINUATION_TOKENS = 24;
const MAX_CHARACTERS = 2000;
const FIRST = EXAMPLES[0]?.text ?? "";

/** @param {import("../types.d.ts").ViewProps} props */
export function SurpriseView({ fields, change, dark, share }) {
  const text = fields["text"] ?? FIRST;
  const whole = useMemo(() => toCharacters(text.trim()), [text]);
  const struck = useMemo(() => parseRanges(fields["struck"] ?? ""), [fields["struck"]]);
  const rest = useMemo(() => withoutStruck(whole, struck), [whole, struck]);
  const before = useReadings(struck.length ? whole.join("") : "");
  const after = useReadings(rest.text);
  const [hovered, setHovered] = useState(/** @type {number | null} */ (null));
  const [pinned, setPinned] = useState(/** @type {number | null} */ (null));
  const [undo, setUndo] = useState(/** @type {{text: string, said: string} | null} */ (null));
  const [failure, setFailure] = useState("");
  useEffect(() => (setPinned(null), setHovered(null)), [rest.text]);

  const { readings } = after;
  const characters = toCharacters(rest.text);
  const all = MODELS.flatMap((model) => readings[model] ?? []);
  const from = all.length ? chargedFrom(all) : 0;
  const isComplete = all.length === MODELS.length;
  const averages = perModel((model) => {
    const reading = readings[model];
    return isComplete && reading ? bitsPerByte(reading, from) : null;
  });
  const place = pinned ?? hovered;
  const example = EXAMPLES.find((candidate) => candidate.text === text);

  useEffect(() => {
    const { bigram, rnn, llm } = readings;
    const requests = MODELS.map((model) => ({ name: ABOUT[model].name, request: scoringRequest(model, rest.text) }));
    if (bigram && rnn && llm) {
      const read = { bigram, rnn, llm };
      const draw = (/** @type {HTMLCanvasElement} */ canvas) => drawCard(canvas, read, perModel((model) => averages[model] ?? NaN), from, dark);
      share({ fields: { text }, requests, draw });
    } else share({ fields: { text }, requests });
  }, [text, rest.text, isComplete, dark]);

  /** @param {number} at a place in the text that is shown */
  const strike = (at) => {
    const origin = rest.origin[at];
    const word = splitWords(whole).find(({ start, end }) => origin !== undefined && start <= origin && origin < end);
    if (word) change({ struck: formatRanges([...struck, [word.start, word.end]]) });
  };

  /**
   * @param {ModelName} model
   * @param {Piece} piece
   * @param {Alternative} alternative
   */
  const continueWith = async (model, piece, alternative) => {
    const prompt = characters.slice(0, piece.start).join("") + alternative.text;
    setFailure("");
    try {
      const body = { model, prompt, max_tokens: CONTINUATION_TOKENS, temperature: 0.8, top_p: 0.95 };
      const completion = await call("/v1/completions", body);
      setUndo({ text, said: `The ${ABOUT[model].name} went on from “${visible(alternative.text)}”.` });
      change({ text: (prompt + completion.choices[0].text).trim(), struck: "" });
    } catch (error) {
      setFailure(error instanceof Error ? error.message : String(error));
    }
  };

  return html`<main class="view">
    <header>
      <h1>How surprised is each model by your text?</h1>
      <p class="lead">
        Three generations of language models read it from left to right and guess every word before they see it.
        ${" "}<strong>The stronger the colour, the more the letters surprised the model.</strong>
      </p>
    </header>
    <${Composer} text=${text} onText=${(/** @type {string} */ value) => (setUndo(null), change({ text: value, struck: "" }))} />
    <div class="row-of-controls hint" role="status">
      ${undo
        ? html`<span>${undo.said}</span><button type="button" onClick=${() => (change({ text: undo.text, struck: "" }), setUndo(null))}>Undo</button>`
        : struck.length
          ? html`<span>Struck out:</span>${struck.map(
                (range) => html`<button
                  type="button"
                  key=${range[0]}
                  class="struck"
                  title="Put it back"
                  onClick=${() => change({ struck: formatRanges(struck.filter((other) => other !== range)) })}
                >
                  <s>${visible(whole.slice(...range).join(""))}</s> <span class="hidden-text">put back</span><span aria-hidden="true">↺</span>
                </button>`,
              )}
              <span>Lines mark words that cost <u class="more">more</u> or <u class="less">less</u> than before.</span>`
          : html`<span>${example?.look ?? "Point at a word to see what each model expected there. Click it to strike it out."}</span>`}
    </div>
    ${failure ? html`<p class="failure" role="alert">${failure}</p>` : null}
    <div class="surprise">
      <div class="card rows">
        <${Legend} dark=${dark} />
        ${MODELS.map((model) => {
          const reading = readings[model];
          const earlier = before.readings[model];
          const changed = struck.length && reading && earlier ? changes(earlier, reading, rest.origin) : null;
          return html`<${Row}
            key=${model}
            ...${{ model, characters, reading, from, place, dark }}
            failure=${after.failures[model]}
            average=${averages[model]}
            isBest=${averages[model] !== null && MODELS.every((other) => (averages[other] ?? 0) >= (averages[model] ?? 0))}
            changes=${changed}
            onPlace=${setHovered}
            onPin=${(/** @type {number} */ at) => setPinned(pinned === at ? null : at)}
            onStrike=${strike}
          />`;
        })}
        <${Running} readings=${isComplete ? readings : {}} from=${from} characters=${characters} cursor=${place} />
        <p class="hint note">
          <b>Bits per byte</b> is the average surprise for one letter: a coin toss is one bit, and blind guessing would cost eight for each letter.
          ${" "}The first word surprises most, because there is nothing to go on yet.
          ${from > 0 ? html`${" "}The dotted beginning is charged to no model, because one of them needs a first word to start from.` : null}
        </p>
      </div>
      <${Inspector}
        ...${{ readings, place, from }}
        pinned=${pinned !== null}
        onContinue=${continueWith}
        onStrike=${strike}
        onClose=${() => setPinned(null)}
      />
    </div>
  </main>`;
}

/**
 * The text field and the examples.
 *
 * @param {object} props
 * @param {string} props.text
 * @param {(text: string) => void} props.onText
 */
function Composer({ text, onText }) {
  const [draft, setDraft] = useState(text);
  const read = (/** @type {string} */ value) => void (value !== text && value.trim() && onText(value));
  useEffect(() => setDraft(text), [text]);
  useEffect(() => {
    const timer = setTimeout(() => read(draft), TYPING_MS);
    return () => clearTimeout(timer);
  }, [draft]);
  return html`<div class="composer">
    <label class="hidden-text" for="text">Your text</label>
    <textarea
      id="text"
      rows="2"
      maxlength=${MAX_CHARACTERS}
      placeholder="Type or paste any text"
      value=${draft}
      onInput=${(/** @type {InputEvent} */ event) => setDraft(valueOf(event))}
      onChange=${(/** @type {Event} */ event) => read(valueOf(event))}
    ></textarea>
    <div class="chips" role="group" aria-label="Examples">
      ${EXAMPLES.map(
        (example) => html`<button type="button" key=${example.name} aria-pressed=${example.text === text} onClick=${() => onText(example.text)}>
          ${example.name}
        </button>`,
      )}
    </div>
  </div>`;
}

/** @param {{dark: boolean}} props */
function Legend({ dark }) {
  const steps = [0, 0.5, 1, 1.7, 2.4, 3.2, 4];
  return html`<p class="legend">
    <span>expected</span>
    ${MODELS.map(
      (model) => html`<span class="ramp" key=${model} aria-hidden="true">
        ${steps.map((bits) => html`<i key=${bits} style=${{ backgroundColor: surpriseColor(model, bits, dark).background }}></i>`)}
      </span>`,
    )}
    <span>surprising</span>
    <span class="meaning">average surprise for a letter: lower is better</span>
  </p>
  <p class="hint">Point at a word, or tap it, to see what each model expected there.</p>`;
}

/**
 * Bits per byte of the text so far.
 *
 * @param {object} props
 * @param {import("./readings.js").Readings} props.readings
 * @param {number} props.from
 * @param {string[]} props.characters
 * @param {number | null} props.cursor
 */
function Running({ readings, from, characters, cursor }) {
  const lines = MODELS.flatMap((model) => {
    const reading = readings[model];
    if (!reading) return [];
    return [{ name: ABOUT[model].name, style: model, points: running(reading, from).map(({ place, value }) => ({ x: place, y: value })) }];
  });
  const highest = Math.max(4, ...lines.flatMap((line) => line.points.slice(8).map((point) => point.y)));
  const said = lines.map((line) => `${line.name} ${line.points.at(-1)?.y.toFixed(2)}`).join(", ");
  const word = cursor === null ? "" : splitWords(characters).find(({ start, end }) => start <= cursor && cursor < end)?.text ?? "";
  return html`<${Chart}
    lines=${lines}
    x=${[from, Math.max(characters.length, from + 1)]}
    y=${[0, Math.ceil(highest)]}
    label="Bits per byte of the text so far, at its end: ${said}"
    title="Average surprise so far, in bits per byte"
    xName="from the first letter to the last"
    format=${(/** @type {number} */ value) => String(value)}
    cursor=${cursor !== null && cursor >= from ? cursor : null}
    cursorName=${word.trim()}
  />`;
}

/**
 * @param {string} value such as "4-9,12-15"
 * @returns {Range[]} in the order of the text
 */
function parseRanges(value) {
  return [...value.matchAll(/(\d+)-(\d+)/g)].map((match) => /** @type {Range} */ ([Number(match[1]), Number(match[2])])).sort((a, b) => a[0] - b[0]);
}

/** @param {Range[]} ranges */
function formatRanges(ranges) {
  return ranges.map((range) => range.join("-")).join(",");
}
