/** What the three models expected at one place of the text, instead of what came. */

import { Bars } from "../core/bars.js";
import { ABOUT, MODELS } from "../core/models.js";
import { odds, visible } from "../core/text.js";
import { html } from "../vendor/preact-htm.js";
import { ALTERNATIVES, pieceAt } from "./scoring.js";

/** @typedef {import("../types.d.ts").Alternative} Alternative */
/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").Piece} Piece */

/**
 * @param {object} props
 * @param {import("./readings.js").Readings} props.readings
 * @param {number | null} props.place
 * @param {boolean} props.pinned whether it stays while the pointer moves
 * @param {number} props.from the first character that is charged
 * @param {(model: ModelName, piece: Piece, alternative: Alternative) => void} props.onContinue
 * @param {(place: number) => void} props.onStrike
 * @param {() => void} props.onClose
 */
export function Inspector({ readings, place, pinned, from, onContinue, onStrike, onClose }) {
  if (place === null) {
    return html`<aside class="inspector card" aria-label="What the models expected">
      <h2>What did they expect instead?</h2>
      <p class="muted">Point at a word. Click it to keep it here: then you can strike it out, or let a model go on with another word.</p>
    </aside>`;
  }
  const tops = MODELS.map((model) => readings[model] && pieceAt(readings[model], place)?.alternatives[0]?.probability);
  const longest = Math.max(...tops.map((top) => top ?? 0)) || 1;
  return html`<aside class="inspector card ${pinned ? "pinned" : ""}" aria-label="What the models expected" aria-live=${pinned ? "polite" : "off"}>
    <div class="dialog-head">
      <h2>What did they expect?</h2>
      ${pinned
        ? html`<span class="row-of-controls nowrap">
            <button type="button" class="small" onClick=${() => onStrike(place)}>Strike out</button>
            <button type="button" class="quiet" onClick=${onClose} aria-label="Close">✕</button>
          </span>`
        : null}
    </div>
    ${MODELS.map(
      (model) => html`<${Expectation} key=${model} ...${{ model, reading: readings[model], place, from, longest, onContinue, pinned }} />`,
    )}
    <p class="hint">${pinned ? "Click another word to let the model go on with it." : "Click the word to keep this open."}</p>
  </aside>`;
}

/**
 * @param {object} props
 * @param {ModelName} props.model
 * @param {import("../types.d.ts").Reading | undefined} props.reading
 * @param {number} props.place
 * @param {number} props.from
 * @param {number} props.longest the probability that fills a bar
 * @param {boolean} props.pinned
 * @param {(model: ModelName, piece: Piece, alternative: Alternative) => void} props.onContinue
 */
function Expectation({ model, reading, place, from, longest, pinned, onContinue }) {
  const piece = reading && pieceAt(reading, place);
  if (!piece) return html`<section class="expectation ${model}"><h3>${ABOUT[model].name}</h3></section>`;
  const { bits, text, start, end } = piece;
  const shown = piece.alternatives.slice(0, ALTERNATIVES);
  return html`<section class="expectation ${model}">
    <h3>${ABOUT[model].name}</h3>
    ${bits === null
      ? html`<p class="hint">The first word: this model needs one to start from.</p>`
      : html`<p class="cost">
            <b>${visible(text)}</b>: ${odds(bits)}
            <span class="hint number" data-cost=${bits}>${cost(bits, end - start)}${start < from ? ", not charged" : ""}</span>
          </p>
          <${Bars}
            alternatives=${shown}
            actual=${text}
            longest=${longest}
            label="What the ${ABOUT[model].name} expected"
            onPick=${pinned ? (/** @type {Alternative} */ alternative) => onContinue(model, piece, alternative) : undefined}
          />`}
  </section>`;
}

/**
 * @param {number} bits
 * @param {number} length in characters, which share the bits and the colour
 */
function cost(bits, length) {
  const each = length > 1 ? `, ${(bits / length).toFixed(1)} for each of ${length} characters` : "";
  return `${bits.toFixed(1)} bits${each}`;
}
