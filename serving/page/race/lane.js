/** One column of the race: the text as it grows, and its figures. */

import { Bars } from "../core/bars.js";
import { ABOUT } from "../core/models.js";
import { html, useEffect, useRef } from "../vendor/preact-htm.js";
import { reshape } from "./sampling.js";

/** @typedef {import("../types.d.ts").Alternative} Alternative */

/**
 * @param {object} props
 * @param {import("../types.d.ts").ModelName} props.model
 * @param {string} props.start
 * @param {import("./run.js").Lane | null} props.lane
 * @param {Alternative[]} props.alternatives of the first word
 * @param {import("../types.d.ts").Sampling} props.sampling
 */
export function LaneColumn({ model, start, lane, alternatives, sampling }) {
  const box = useRef(/** @type {HTMLElement | null} */ (null));
  useEffect(() => {
    if (box.current) box.current.scrollTop = box.current.scrollHeight;
  }, [lane?.text]);
  const { shares, exact } = reshape(alternatives, sampling);
  const reshaped = alternatives.map(({ text }, i) => ({ text, probability: shares[i] ?? 0 }));
  const now = lane?.ended ?? performance.now();
  const seconds = lane ? (now - lane.started) / 1000 : 0;
  return html`<section class="lane card ${model}" aria-label=${ABOUT[model].name} data-state=${lane?.state ?? "idle"}>
    <header>
      <h2>${ABOUT[model].name} <span class="era">${ABOUT[model].era}</span></h2>
      <p class="hint">${ABOUT[model].sees}</p>
    </header>
    <div class="next">
      <h3>The likeliest first words</h3>
      <${Bars} alternatives=${reshaped} label="Chances of the first word of the ${ABOUT[model].name}" />
      <p class="hint">${alternatives.length ? (exact ? "of all its words" : "shares of these five; it may take another") : ""}</p>
    </div>
    <div class="written" ref=${box} tabindex="0" role="log" aria-live="off" aria-label="What the ${ABOUT[model].name} writes">
      <span class="start">${lane?.start ?? start}</span>
      <span class="new">${lane?.text ?? ""}</span>
      ${lane?.state === "writing" ? html`<span class="caret"></span>` : null}
    </div>
    <dl class="figures number">
      <div><dt>first after</dt><dd>${lane?.first ? duration(lane.first - lane.started) : "–"}</dd></div>
      <div><dt>${ABOUT[model].unit} a second</dt><dd>${lane?.tokens ? rate(lane.tokens / seconds) : "–"}</dd></div>
      <div><dt>in all</dt><dd>${lane?.ended ? duration(lane.ended - lane.started) : "–"}</dd></div>
    </dl>
    <p class="hint finish">${lane?.finish || (lane?.state === "waiting" ? "waiting" : lane?.state === "writing" ? "writing" : "")}</p>
  </section>`;
}

/** @param {number} milliseconds */
function duration(milliseconds) {
  return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(milliseconds / 1000).toFixed(1)} s`;
}

/** @param {number} value */
function rate(value) {
  return value < 10 ? value.toFixed(1) : Math.round(value).toLocaleString("en");
}
