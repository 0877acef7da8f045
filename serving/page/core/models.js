/** The three models, oldest first: how the page names them and where they are asked. */

/** @typedef {import("../types.d.ts").ModelName} ModelName */

/** @type {ModelName[]} */
export const MODELS = ["bigram", "rnn", "llm"];

/** @type {Record<ModelName, {name: string, said: string, era: string, sees: string, route: string, unit: string}>} */
export const ABOUT = {
  bigram: { name: "Bigram", said: "bigram", era: "1948", sees: "remembers the last word and nothing else", route: "/generate_text", unit: "words" },
  rnn: { name: "LSTM", said: "LSTM", era: "1997", sees: "carries along a memory that fades", route: "/generate_with_rnn", unit: "words" },
  llm: { name: "LLM", said: "LLM", era: "today", sees: "looks back at everything so far, as chatbots do", route: "/generate_with_llm", unit: "tokens" },
};

/**
 * @template T
 * @param {(model: ModelName) => T} make
 * @returns {Record<ModelName, T>}
 */
export function perModel(make) {
  return { bigram: make("bigram"), rnn: make("rnn"), llm: make("llm") };
}
