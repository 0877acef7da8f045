/** Colours of surprise: one hue for each model, from the paper to its accent, even steps for the eye (OKLab). */

/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {[number, number, number]} Triple */

/**
 * Paul Tol's high-contrast scheme, which people with any colour vision can tell apart, also in grey: https://personal.sron.nl/~pault/.
 *
 * @type {Record<"light" | "dark", {paper: string, accents: Record<ModelName, string>}>}
 */
export const PALETTE = {
  light: { paper: "#ffffff", accents: { bigram: "#ddaa33", rnn: "#bb5566", llm: "#004488" } },
  dark: { paper: "#1e2026", accents: { bigram: "#f0c050", rnn: "#f08a9a", llm: "#7fb2ff" } },
};

/** Bits per character at which a colour is full. */
export const FULL_BITS = 4;

/**
 * @param {ModelName} model
 * @param {number} bits of one character
 * @param {boolean} dark
 * @returns {{background: string, ink: string}} CSS colours with a contrast of at least 4.5
 */
export function surpriseColor(model, bits, dark) {
  const { paper, accents } = PALETTE[dark ? "dark" : "light"];
  const share = Math.min(Math.max(bits, 0) / FULL_BITS, 1) ** 0.9;
  const from = toOklab(linear(paper));
  const to = toOklab(linear(accents[model]));
  const rgb = fromOklab(mix(from, to, share));
  const luminance = 0.2126 * rgb[0] + 0.7152 * rgb[1] + 0.0722 * rgb[2];
  const ink = 1.05 / (luminance + 0.05) > (luminance + 0.05) / 0.05 ? "#ffffff" : "#000000";
  return { background: `rgb(${rgb.map(encode).join(" ")})`, ink };
}

/**
 * @param {string} color #rrggbb
 * @returns {Triple} linear light, from 0 to 1
 */
function linear(color) {
  const channel = (/** @type {number} */ at) => {
    const value = parseInt(color.slice(at, at + 2), 16) / 255;
    return value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  };
  return [channel(1), channel(3), channel(5)];
}

/** @param {number} value linear light */
function encode(value) {
  const clipped = Math.min(Math.max(value, 0), 1);
  return Math.round(255 * (clipped <= 0.0031308 ? 12.92 * clipped : 1.055 * clipped ** (1 / 2.4) - 0.055));
}

/**
 * https://bottosson.github.io/posts/oklab/
 *
 * @param {Triple} rgb
 * @returns {Triple}
 */
function toOklab([r, g, b]) {
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

/**
 * @param {Triple} lab
 * @returns {Triple}
 */
function fromOklab([lightness, a, b]) {
  const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
  return [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
}

/**
 * @param {Triple} from
 * @param {Triple} to
 * @param {number} share
 * @returns {Triple}
 */
function mix(from, to, share) {
  const between = (/** @type {number} */ a, /** @type {number} */ b) => a + (b - a) * share;
  return [between(from[0], to[0]), between(from[1], to[1]), between(from[2], to[2])];
}
