/** The rules of Shannon's game with words (Shannon 1951, "Prediction and entropy of printed English"). */

import { MODELS, perModel } from "../core/models.js";
import { splitWords } from "../core/text.js";
import { bitsBetween, pieceAt } from "../surprise/scoring.js";

/** @typedef {import("../types.d.ts").PerModel<import("../types.d.ts").Reading>} Readings */
/** @typedef {{text: string, start: number, end: number}} Word */
/**
 * @typedef {object} Round
 * @property {Word} word
 * @property {string} guess
 * @property {boolean} isRight
 * @property {number} yours what the word cost you, in bits
 * @property {import("../types.d.ts").PerModel<number>} models what it cost the models
 * @property {import("../types.d.ts").PerModel<string>} expected what they thought most probable
 */

/** Words that are shown before the first guess. */
export const GIVEN = 4;
export const ROUNDS = 8;

/**
 * @param {string[]} characters
 * @returns {Word[]} the words to guess
 */
export function wordsToGuess(characters) {
  return splitWords(characters)
    .filter(({ isWord }) => isWord)
    .slice(GIVEN, GIVEN + ROUNDS);
}

/**
 * You put a share of your belief on one word; the rest is spread as the bigram's is. So a wrong guess costs more the surer you were,
 * but never infinitely much, and your bits compare with those of the models.
 *
 * @param {Word} word
 * @param {string} guess
 * @param {number} sureness from 0 to 1
 * @param {Readings} readings
 * @returns {Round}
 */
export function play(word, guess, sureness, readings) {
  const models = perModel((model) => bitsBetween(readings[model], word.start, word.end));
  const isRight = normal(guess) === normal(word.text);
  const yours = -Math.log2((isRight ? sureness : 0) + (1 - sureness) * 2 ** -models.bigram);
  const expected = perModel((model) => pieceAt(readings[model], word.start)?.alternatives[0]?.text ?? "");
  return { word, guess: guess.trim(), isRight, yours, models, expected };
}

/**
 * @param {Round[]} rounds
 * @returns {{you: number} & import("../types.d.ts").PerModel<number>} the bits of all rounds
 */
export function totals(rounds) {
  const sum = (/** @type {(round: Round) => number} */ of) => rounds.reduce((total, round) => total + of(round), 0);
  const of = perModel((model) => sum((round) => round.models[model]));
  return { you: sum((round) => round.yours), ...of };
}

/**
 * @param {ReturnType<typeof totals>} bits
 * @returns {("you" | import("../types.d.ts").ModelName)[]} the fewest bits first
 */
export function ranking(bits) {
  return /** @type {const} */ (["you", ...MODELS]).slice().sort((a, b) => bits[a] - bits[b]);
}

/** @param {string} word */
function normal(word) {
  return word.trim().toLowerCase().normalize("NFC").replaceAll("’", "'");
}
