/** A text with words struck out, and what that changed for the words that are left. */

import { bitsBetween } from "./scoring.js";

/** @typedef {import("../types.d.ts").Reading} Reading */
/** @typedef {[start: number, end: number]} Range */

/** A smaller change is not marked. */
export const CHANGED_BITS = 0.5;

/**
 * @param {string[]} characters
 * @param {Range[]} struck
 * @returns {{text: string, origin: number[]}} the rest, and the place of each of its characters in the whole text
 */
export function withoutStruck(characters, struck) {
  const kept = characters.flatMap((_, place) => (struck.some(([start, end]) => start <= place && place < end) ? [] : [place]));
  while (kept.length && /\s/.test(characters[kept[0] ?? 0] ?? "")) kept.shift(); // the space after a first word that is struck out
  return { text: kept.map((place) => characters[place]).join(""), origin: kept };
}

/**
 * @param {Reading} before of the whole text
 * @param {Reading} after of the text without the struck words
 * @param {number[]} origin see `withoutStruck`
 * @returns {(number | null)[]} for each token of `after`, how many bits more it costs now; null before the first struck word
 */
export function changes(before, after, origin) {
  const first = origin.findIndex((place, i) => place !== i);
  return after.pieces.map((piece) => {
    if (first < 0 || piece.start < first || piece.bits === null) return null;
    const places = origin.slice(piece.start, piece.end);
    return piece.bits - places.reduce((sum, place) => sum + bitsBetween(before, place, place + 1), 0);
  });
}
