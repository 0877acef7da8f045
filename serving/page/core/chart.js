/** A small line chart: lines as SVG, words as HTML, so that they keep their size at any width. */

import { html } from "../vendor/preact-htm.js";

/**
 * @typedef {object} Line
 * @property {string} name
 * @property {string} style a class that sets --accent
 * @property {{x: number, y: number}[]} points
 */

/**
 * @param {object} props
 * @param {Line[]} props.lines
 * @param {[number, number]} props.x the domain
 * @param {[number, number]} props.y the domain
 * @param {string} props.label says for screen readers what the lines show
 * @param {string} props.title what the y axis shows
 * @param {string} props.xName
 * @param {(value: number) => string} props.format of the values on the y axis
 * @param {number | null} [props.cursor] a place on the x axis
 * @param {string} [props.cursorName]
 */
export function Chart({ lines, x, y, label, title, xName, format, cursor = null, cursorName = "" }) {
  const left = (/** @type {number} */ value) => (100 * (value - x[0])) / (x[1] - x[0] || 1);
  const top = (/** @type {number} */ value) => 100 - (100 * (Math.min(Math.max(value, y[0]), y[1]) - y[0])) / (y[1] - y[0] || 1);
  const path = (/** @type {Line} */ line) =>
    line.points.map((point, i) => `${i ? "L" : "M"}${left(point.x).toFixed(2)} ${top(point.y).toFixed(2)}`).join("");
  const ends = apart(lines.filter((line) => line.points.length).map((line) => ({ line, at: top(line.points.at(-1)?.y ?? 0) })));
  return html`<figure class="chart" role="img" aria-label=${label}>
    <p class="title" aria-hidden="true">${title}</p>
    <div class="plot" aria-hidden="true">
      <svg viewBox="0 0 100 100" preserveAspectRatio="none">
        ${lines.map((line) => html`<path key=${line.name} class=${line.style} d=${path(line)} vector-effect="non-scaling-stroke" />`)}
        ${cursor === null ? null : html`<line x1=${left(cursor)} x2=${left(cursor)} y1="0" y2="100" vector-effect="non-scaling-stroke" />`}
      </svg>
      <span class="tick high">${format(y[1])}</span>
      <span class="tick low">${format(y[0])}</span>
      ${cursor === null || !cursorName
        ? null
        : html`<span class="cursor-name ${left(cursor) > 50 ? "before" : ""}" style=${{ left: `${left(cursor)}%` }}>${cursorName}</span>`}
    </div>
    <div class="line-names" aria-hidden="true">
      ${ends.map(({ line, at }) => html`<span key=${line.name} class=${line.style} style=${{ top: `${at}%` }}>${line.name}</span>`)}
    </div>
    <figcaption aria-hidden="true">${xName}</figcaption>
  </figure>`;
}

/**
 * Move names so far apart that they do not cover each other.
 *
 * @template {{at: number}} T
 * @param {T[]} names in percent from the top
 * @returns {T[]}
 */
function apart(names) {
  const sorted = [...names].sort((a, b) => a.at - b.at);
  let last = -Infinity;
  return sorted.map((name, i) => {
    const room = 100 - 16 * (sorted.length - 1 - i);
    last = Math.max(Math.min(name.at, room), last + 16);
    return { ...name, at: last };
  });
}
