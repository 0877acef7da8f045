/** The readings of a text by all three models, kept so that a text that comes back is not read again. */

import { MODELS } from "../core/models.js";
import { useEffect, useState } from "../vendor/preact-htm.js";
import { read } from "./scoring.js";

/** @typedef {import("../types.d.ts").ModelName} ModelName */
/** @typedef {import("../types.d.ts").Reading} Reading */
/** @typedef {Partial<Record<ModelName, Reading>>} Readings */

const KEPT = 60;
/** @type {Map<string, Reading>} by model and text, the oldest first */
const kept = new Map();

/**
 * @param {string} text without white space at its ends; nothing is read if it is empty
 * @returns {{readings: Readings, failures: Partial<Record<ModelName, Error>>}} those that have arrived
 */
export function useReadings(text) {
  const [, redraw] = useState(0);
  const [failed, setFailed] = useState(/** @type {{text: string, failures: Partial<Record<ModelName, Error>>}} */ ({ text, failures: {} }));
  useEffect(() => {
    if (!text) return;
    const controller = new AbortController();
    for (const model of MODELS) {
      if (find(model, text)) continue;
      read(model, text, controller.signal)
        .then((reading) => {
          keep(model, text, reading);
          redraw((n) => n + 1);
        })
        .catch((error) => {
          if (controller.signal.aborted) return;
          setFailed((before) => ({ text, failures: { ...(before.text === text ? before.failures : {}), [model]: error } }));
        });
    }
    return () => controller.abort();
  }, [text]);
  /** @type {Readings} */
  const readings = {};
  for (const model of MODELS) {
    const reading = find(model, text);
    if (reading) readings[model] = reading;
  }
  return { readings, failures: failed.text === text ? failed.failures : {} };
}

/** The models may have changed: forget what they said. */
export function forgetReadings() {
  kept.clear();
}

/**
 * @param {ModelName} model
 * @param {string} text
 */
function find(model, text) {
  return kept.get(`${model} ${text}`);
}

/**
 * @param {ModelName} model
 * @param {string} text
 * @param {Reading} reading
 */
function keep(model, text, reading) {
  kept.set(`${model} ${text}`, reading);
  const [oldest] = kept.keys();
  if (kept.size > KEPT && oldest !== undefined) kept.delete(oldest);
}
