/** What the served models are bad at, in words, from their own metrics. */

/** @typedef {import("../types.d.ts").Schemas} Schemas */

/**
 * @param {Schemas["Info"]} info
 * @returns {string[]} sentences; only what the metrics show
 */
export function weaknesses(info) {
  const { llm, bigram } = info.models;
  const named = [];
  const data = llm.dataset ?? {};
  if (data["source"] === "quickstart") {
    named.push(
      `These are the quickstart’s models: trained within minutes on ${data["train_rows"]} questions, to show how it works. For more, train on SQuAD or on your own data.`,
    );
  }
  const vocabulary = bigram.metrics?.["vocabulary"];
  if (typeof vocabulary === "number") {
    named.push(`The bigram and the LSTM know ${vocabulary.toLocaleString("en")} words. Any other word costs them its spelling, and they never write it.`);
  }
  named.push("The bigram forgets everything but the last word, so its sentences lead nowhere.");
  const comparison = /** @type {Record<string, any>} */ (info.comparison["models"] ?? {});
  const [small, simple] = [comparison["rnn"]?.bits_per_byte, comparison["bigram"]?.bits_per_byte];
  if (small >= simple) named.push("On held-out text the LSTM is no better than the bigram: it has read too little to use its memory.");
  const squad2 = /** @type {Record<string, any> | undefined} */ (llm.metrics?.["squad2"]);
  if (squad2) {
    named.push(
      `Of the questions that their passage does not answer, the LLM declines ${squad2["no_answer_exact_match"].toFixed(0)} %. To the others it gives an answer that sounds right.`,
    );
  }
  named.push("The LLM writes fluent sentences that need not be true.");
  return named;
}
