/** What may come next, as bars. */

import { html } from "../vendor/preact-htm.js";
import { percent, visible } from "./text.js";

/** @typedef {import("../types.d.ts").Alternative} Alternative */

/**
 * @param {object} props
 * @param {Alternative[]} props.alternatives
 * @param {string} [props.actual] the token that did come, which is marked
 * @param {(alternative: Alternative) => void} [props.onPick] makes the words buttons
 * @param {number} [props.longest] the probability that fills a bar
 * @param {string} props.label for screen readers
 */
export function Bars({ alternatives, actual, onPick, longest = 1, label }) {
  return html`<ol class="bars" aria-label=${label}>
    ${alternatives.map((alternative) => {
      const { text, probability } = alternative;
      const word = visible(text);
      return html`<li key=${text} class=${text === actual ? "actual" : ""}>
        ${onPick
          ? html`<button type="button" title="Continue from here with “${word}”" onClick=${() => onPick(alternative)}>${word}</button>`
          : html`<span class="word">${word}</span>`}
        <span class="track"><span class="bar" style=${{ width: `${probability && Math.max((100 * probability) / longest, 0.5)}%` }}></span></span>
        <span class="number">${percent(probability)}</span>
      </li>`;
    })}
  </ol>`;
}
