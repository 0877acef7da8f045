/** One model's row: the text, coloured by the bits that the model spent on it. */

import { ABOUT } from "../core/models.js";
import { visible } from "../core/text.js";
import { html } from "../vendor/preact-htm.js";
import { surpriseColor } from "./scale.js";
import { CHANGED_BITS } from "./striking.js";

/** @typedef {import("../types.d.ts").Piece} Piece */
/** @typedef {import("../types.d.ts").Reading} Reading */

/** A text of more characters is set smaller. */
const LONG = 280;

/**
 * @param {object} props
 * @param {import("../types.d.ts").ModelName} props.model
 * @param {string[]} props.characters the text, which is shown without colours until the model has read it
 * @param {Reading | undefined} props.reading
 * @param {Error | undefined} props.failure
 * @param {number} props.from the first character that is charged
 * @param {number | null} props.average bits per byte
 * @param {boolean} props.isBest whether no other model was less surprised
 * @param {(number | null)[] | null} props.changes in bits, for each token; null if no word is struck out
 * @param {number | null} props.place the character that is looked at
 * @param {(place: number | null) => void} props.onPlace
 * @param {(place: number) => void} props.onPin
 * @param {(place: number) => void} props.onStrike
 * @param {boolean} props.dark
 */
export function Row({ model, characters, reading, failure, from, average, isBest, changes, place, onPlace, onPin, onStrike, dark }) {
  const pieces = reading?.pieces ?? [];
  const active = pieces.findIndex((piece) => place !== null && piece.start <= place && place < piece.end);
  const id = (/** @type {number} */ i) => `${model}-${i}`;
  const placeOf = (/** @type {Event} */ event) => {
    const token = /** @type {HTMLElement} */ (event.target).closest("[data-place]");
    return token instanceof HTMLElement ? Number(token.dataset["place"]) : null;
  };
  const onKeyDown = (/** @type {KeyboardEvent} */ event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
    const here = pieces[active];
    if (step !== undefined) {
      const next = Math.min(Math.max(active < 0 ? (step > 0 ? 0 : pieces.length - 1) : active + step, 0), pieces.length - 1);
      onPlace(pieces[next]?.start ?? null);
    } else if (event.key === "Enter" && here) onPin(here.start);
    else if ((event.key === "Delete" || event.key === "Backspace") && here) onStrike(here.start);
    else return;
    event.preventDefault();
  };
  return html`<section class="surprise-row ${model}" aria-label=${ABOUT[model].name}>
    <header>
      <h2>${ABOUT[model].name} <span class="era">${ABOUT[model].era}</span></h2>
      <p class="hint">${ABOUT[model].sees}</p>
      <p class="average number" data-average=${average ?? ""}>
        ${isBest ? html`<span class="badge">least surprised</span>` : null}
        <strong>${average === null || Number.isNaN(average) ? "–" : average.toFixed(2)}</strong> <span>bits per byte</span>
      </p>
    </header>
    ${failure ? html`<p class="failure" role="alert">${failure.message}</p>` : null}
    <div
      class="strip ${reading ? "" : "unread"} ${characters.length > LONG ? "long" : ""}"
      role=${reading ? "listbox" : undefined}
      tabindex=${reading ? 0 : undefined}
      aria-label=${reading ? `The text as the ${ABOUT[model].name} read it. Arrow keys move, Delete strikes a word out.` : undefined}
      aria-busy=${!reading && !failure}
      aria-activedescendant=${active >= 0 ? id(active) : undefined}
      onKeyDown=${onKeyDown}
      onMouseOver=${(/** @type {Event} */ event) => onPlace(placeOf(event))}
      onMouseLeave=${() => onPlace(null)}
      onFocus=${() => place === null && onPlace(pieces[0]?.start ?? null)}
      onClick=${(/** @type {Event} */ event) => {
        const at = placeOf(event);
        if (at !== null) onPin(at);
      }}
    >
      ${reading ? pieces.map((piece, i) => token(piece, i)) : characters.join("")}
    </div>
    ${changes ? html`<p class="hint change">${summary(pieces, changes, ABOUT[model].unit)}</p>` : null}
  </section>`;

  /**
   * @param {Piece} piece
   * @param {number} i
   */
  function token(piece, i) {
    const isCharged = piece.bits !== null && piece.start >= from;
    const bits = isCharged ? (piece.bits ?? 0) / (piece.end - piece.start) : 0;
    const { background, ink } = surpriseColor(model, bits, dark);
    const change = changes?.[i] ?? 0;
    const mark = change > CHANGED_BITS ? "more" : change < -CHANGED_BITS ? "less" : "";
    const said = isCharged ? `${(piece.bits ?? 0).toFixed(1)} bits` : "not charged";
    const changed = mark ? `, ${Math.abs(change).toFixed(1)} bits ${mark} than before` : "";
    return html`<span
      key=${i}
      id=${id(i)}
      role="option"
      aria-selected=${i === active}
      aria-label="${visible(piece.text)}: ${said}${changed}"
      class="token ${isCharged ? "" : "uncharged"} ${mark} ${i === active ? "active" : ""}"
      data-place=${piece.start}
      data-bits=${isCharged ? piece.bits : ""}
      style=${isCharged ? { backgroundColor: background, color: ink } : {}}
      >${piece.text}</span
    >`;
  }
}

/**
 * @param {Piece[]} pieces
 * @param {(number | null)[]} changes
 * @param {string} unit what the pieces are
 */
function summary(pieces, changes, unit) {
  const later = changes.filter((change) => change !== null);
  const changed = later.filter((change) => Math.abs(change) > CHANGED_BITS);
  const sum = later.reduce((total, change) => total + change, 0);
  if (!later.length) return "Nothing comes after what you struck out.";
  if (!changed.length) return `None of the ${later.length} ${unit} after it changed by half a bit: this model had forgotten it.`;
  const far = changes.findLastIndex((change) => Math.abs(change ?? 0) > CHANGED_BITS);
  const word = visible(pieces[far]?.text ?? "");
  const direction = sum > 0 ? `${sum.toFixed(1)} bits more` : `${(-sum).toFixed(1)} bits fewer`;
  return `${changed.length} of the ${later.length} ${unit} after it changed by half a bit or more, the last one “${word}”: ${direction} in all.`;
}
