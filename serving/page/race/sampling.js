/** The distribution from which the next token is drawn, from the most probable tokens alone: as in the service's sampling. */

/** @typedef {import("../types.d.ts").Alternative} Alternative */

/**
 * Temperature first, then top-k, then top-p, as in the service.
 *
 * The probabilities of tokens that are not in `alternatives` are unknown, except for their sum. So the result is exact at temperature 1,
 * at temperature 0, and where top-k or top-p leaves only tokens that are known; otherwise it is the share among the known ones.
 *
 * @param {Alternative[]} alternatives in descending order
 * @param {import("../types.d.ts").Sampling} sampling
 * @returns {{shares: number[], exact: boolean}} the probability of each alternative, 0 for one that is cut off
 */
export function reshape(alternatives, { temperature, topK, topP }) {
  const known = alternatives.map(({ probability }) => probability);
  if (temperature < 1e-3) return { shares: known.map((_, i) => (i === 0 ? 1 : 0)), exact: true };
  const best = known[0] ?? 1;
  const weights = known.map((probability) => (probability / best) ** (1 / temperature));
  const onlyKnown = topK > 0 && topK <= weights.length;
  if (topK > 0) weights.fill(0, topK);
  // At temperature 1 the weight of all others follows from the sum of the known ones.
  const others = onlyKnown || temperature !== 1 ? 0 : Math.max(0, (1 - known.reduce(add, 0)) / best);
  const total = weights.reduce(add, 0) + (topK > weights.length ? 0 : others);
  let before = 0;
  const kept = weights.map((weight) => {
    const isKept = before < topP * total;
    before += weight;
    return isKept ? weight : 0;
  });
  const isCut = before >= topP * total;
  const sum = kept.reduce(add, 0) + (isCut || onlyKnown ? 0 : others);
  const exact = onlyKnown || (temperature === 1 && topK === 0 && (isCut || topP === 1));
  return { shares: kept.map((weight) => weight / sum), exact };
}

/**
 * @param {number} a
 * @param {number} b
 */
function add(a, b) {
  return a + b;
}
