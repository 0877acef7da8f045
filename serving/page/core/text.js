/** Texts in code points, as the service counts them: JavaScript's own strings count UTF-16 units. */

const encoder = new TextEncoder();
const WORD = / ?[\p{L}\p{N}\p{M}_]+(?:['’][\p{L}\p{N}\p{M}_]+)*| ?[^\s]|\s/gu;

/**
 * @param {string} text
 * @returns {string[]} its code points
 */
export function toCharacters(text) {
  return Array.from(text);
}

/**
 * @param {string} text
 * @returns {number} its length in UTF-8
 */
export function byteLength(text) {
  return encoder.encode(text).length;
}

/**
 * The words and punctuation marks of a text, each with the space before it.
 *
 * @param {string[]} characters
 * @returns {{text: string, start: number, end: number, isWord: boolean}[]} places in code points
 */
export function splitWords(characters) {
  const words = [];
  let start = 0;
  for (const [text] of characters.join("").matchAll(WORD)) {
    const end = start + toCharacters(text).length;
    words.push({ text, start, end, isWord: /[\p{L}\p{N}]/u.test(text) });
    start = end;
  }
  return words;
}

/**
 * @param {number} probability from 0 to 1
 * @returns {string} as a person would say it
 */
export function percent(probability) {
  if (probability >= 0.995) return "100 %";
  if (probability >= 0.1) return `${Math.round(probability * 100)} %`;
  if (probability >= 0.001) return `${(probability * 100).toFixed(1)} %`;
  return probability > 0 ? "< 0.1 %" : "0 %";
}

/**
 * @param {number} bits
 * @returns {string} the probability 2^-bits as odds
 */
export function odds(bits) {
  const one = 2 ** bits;
  if (one < 1.5) return "almost certain";
  if (one < 10) return `1 in ${one.toFixed(1)}`;
  if (one < 1e6) return `1 in ${Math.round(Number(one.toPrecision(2))).toLocaleString("en")}`;
  if (one < 1e9) return `1 in ${(one / 1e6).toPrecision(2)} million`;
  return `1 in ${one < 1e12 ? `${(one / 1e9).toPrecision(2)} billion` : "a trillion or more"}`;
}

/**
 * @param {string} token
 * @returns {string} with white space that can be seen
 */
export function visible(token) {
  return token.replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/^ +| +$/g, "").replace(/^$/, "␣");
}
