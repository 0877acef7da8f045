/** How many bits each model spends on a text, character by character. */

import { call } from "../api/client.js";
import { byteLength, toCharacters } from "../core/text.js";

/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").Piece} Piece */
/** @typedef {import("../types.d.ts").Reading} Reading */
/** @typedef {import("../types.d.ts").Schemas} Schemas */

/** Alternatives for each token: the API's maximum. */
export const ALTERNATIVES = 5;

/**
 * @param {ModelName} model
 * @param {string} text
 * @returns {import("../types.d.ts").ApiRequest} reads the text and writes nothing
 */
export function scoringRequest(model, text) {
  return { path: "/v1/completions", body: { model, prompt: text, max_tokens: 0, echo: true, logprobs: ALTERNATIVES } };
}

/**
 * @param {ModelName} model
 * @param {string} text without white space at its ends, which may belong to no token
 * @param {AbortSignal} signal
 * @returns {Promise<Reading>}
 */
export async function read(model, text, signal) {
  const { path, body } = scoringRequest(model, text);
  /** @type {Schemas["Completion"]} */
  const completion = await call(path, body, signal);
  const logprobs = completion.choices[0]?.logprobs;
  const characters = toCharacters(text);
  const pieces = logprobs ? toPieces(characters, logprobs) : [];
  return { characters, pieces, bits: spread(pieces, characters.length), tag: completion.system_fingerprint };
}

/**
 * @param {string[]} characters
 * @param {Schemas["Logprobs"]} logprobs
 * @returns {Piece[]} one for each token or, where a character takes several tokens, for each character
 */
export function toPieces(characters, logprobs) {
  /** @type {Piece[]} */
  const pieces = [];
  let bits = 0;
  logprobs.token_logprobs.forEach((logprob, i) => {
    const start = logprobs.text_offset[i] ?? 0;
    const end = logprobs.text_offset[i + 1] ?? characters.length;
    bits -= (logprob ?? 0) / Math.LN2;
    if (end === start) return; // part of a character
    const text = characters.slice(start, end).join("");
    pieces.push({ text, start, end, bits: logprob === null ? null : bits, alternatives: toAlternatives(logprobs.top_logprobs[i] ?? {}) });
    bits = 0;
  });
  return pieces;
}

/**
 * @param {Record<string, number>} logprobs natural logarithms
 * @returns {import("../types.d.ts").Alternative[]} in descending order
 */
export function toAlternatives(logprobs) {
  return Object.entries(logprobs)
    .map(([text, logprob]) => ({ text, probability: Math.exp(logprob) }))
    .sort((a, b) => b.probability - a.probability);
}

/**
 * @param {Piece[]} pieces
 * @param {number} length in characters
 * @returns {number[]} the bits of each character
 */
function spread(pieces, length) {
  const bits = new Array(length).fill(0);
  for (const piece of pieces) bits.fill((piece.bits ?? 0) / (piece.end - piece.start), piece.start, piece.end);
  return bits;
}

/**
 * Return where all models can be charged from. A model without a document start says nothing about its first token, and tokens differ
 * between models: the first place that begins a token for all of them is the earliest one where bits per byte compare.
 *
 * @param {Reading[]} readings of the same text
 * @returns {number} in characters
 */
export function chargedFrom(readings) {
  const starts = readings.map(({ pieces, characters }) => {
    const silent = pieces.findLastIndex((piece) => piece.bits === null);
    return new Set([...pieces.slice(silent + 1).map((piece) => piece.start), characters.length]);
  });
  const [first, ...others] = starts;
  return Math.min(...[...(first ?? [0])].filter((start) => others.every((other) => other.has(start))));
}

/**
 * @param {Reading} reading
 * @param {number} from the first character that is charged
 * @returns {{place: number, value: number}[]} bits per byte of the text up to each place
 */
export function running(reading, from) {
  let bits = 0;
  let bytes = 0;
  return reading.characters.slice(from).map((character, i) => {
    bits += reading.bits[from + i] ?? 0;
    bytes += byteLength(character);
    return { place: from + i + 1, value: bits / bytes };
  });
}

/**
 * @param {Reading} reading
 * @param {number} from the first character that is charged
 * @returns {number} bits per byte; NaN if nothing is charged
 */
export function bitsPerByte(reading, from) {
  return running(reading, from).at(-1)?.value ?? NaN;
}

/**
 * @param {Reading} reading
 * @param {number} start
 * @param {number} end
 * @returns {number} the bits of these characters
 */
export function bitsBetween(reading, start, end) {
  return reading.bits.slice(start, end).reduce((sum, bits) => sum + bits, 0);
}

/**
 * @param {Reading} reading
 * @param {number} place
 * @returns {Piece | undefined} the token at this character
 */
export function pieceAt(reading, place) {
  return reading.pieces.find((piece) => piece.start <= place && place < piece.end);
}
