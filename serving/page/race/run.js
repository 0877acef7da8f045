/** One race: the three models continue the same beginning at the same time. */

import { stream } from "../api/client.js";
import { ABOUT } from "../core/models.js";

/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").Schemas} Schemas */

/**
 * @typedef {object} Lane
 * @property {"waiting" | "writing" | "done" | "stopped" | "failed"} state
 * @property {string} start the beginning
 * @property {string} text the new text
 * @property {number} started in milliseconds, as all times here
 * @property {number | null} first when the first piece came
 * @property {number | null} ended
 * @property {number | null} tokens the number of new tokens, once it is known
 * @property {string} finish why the text ended
 * @property {string} tag
 */

/** @type {Record<string, string>} */
const FINISHES = {
  length: "reached the length",
  stop: "ended by itself",
  cancelled: "cut off: the service stopped",
  error: "failed",
};

/**
 * @typedef {object} RaceSettings
 * @property {string} start
 * @property {number} length
 * @property {number} temperature
 * @property {number} topK
 * @property {number} topP
 * @property {number | null} seed
 * @property {string} stop one stop string, or none
 */

/**
 * @param {ModelName} model
 * @param {RaceSettings} settings
 * @returns {import("../types.d.ts").ApiRequest}
 */
export function raceRequest(model, { start, length, temperature, topK, topP, seed, stop }) {
  const body = { start_word: start, length, temperature, top_k: topK, top_p: topP };
  return { path: ABOUT[model].route, body: { ...body, ...(seed === null ? {} : { seed }), ...(stop ? { stop: [stop] } : {}) } };
}

/**
 * @param {string} start
 * @returns {Lane}
 */
export function newLane(start) {
  return { state: "waiting", start, text: "", started: performance.now(), first: null, ended: null, tokens: null, finish: "", tag: "" };
}

/**
 * Let one model write, until it is done or the signal ends it.
 *
 * @param {ModelName} model
 * @param {RaceSettings} settings
 * @param {Lane} lane changed as the text grows
 * @param {AbortSignal} signal
 * @param {() => void} onChange
 */
export async function runLane(model, settings, lane, signal, onChange) {
  const { path, body } = raceRequest(model, settings);
  try {
    /** @type {Schemas["GenerateEvent"]} */
    let event;
    for await (event of stream(path, body, signal)) {
      lane.first ??= performance.now();
      lane.state = "writing";
      lane.text += event.text;
      if (event.finish_reason) {
        lane.tokens = event.new_tokens ?? null;
        lane.tag = event.model ?? "";
        const isDone = event.finish_reason === "length" || event.finish_reason === "stop";
        finish(isDone ? "done" : "failed", event.problem?.detail ?? FINISHES[event.finish_reason] ?? event.finish_reason);
      }
      onChange();
    }
    if (lane.ended === null) finish("failed", "cut off: the connection ended");
  } catch (error) {
    if (signal.aborted) finish("stopped", "stopped by you");
    else finish("failed", error instanceof Error ? error.message : String(error));
  }
  onChange();

  /**
   * @param {Lane["state"]} state
   * @param {string} reason
   */
  function finish(state, reason) {
    lane.state = state;
    lane.finish = reason;
    lane.ended = performance.now();
  }
}
