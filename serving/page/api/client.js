/** Requests to the service's public API: with the key, with patience when it is busy, and again when it comes back. */

import { Failure, failureOf } from "./problems.js";

const KEY = "trigen-key";
const POLL_MS = 1500;
const RETRIES = 5;
/** Of the address of this module, so that the page also works behind a proxy that adds a prefix. */
const ROOT = new URL("../../", import.meta.url);

/** @typedef {{kind: "busy", until: number} | {kind: "down"} | {kind: "back"} | {kind: "ready"}} Condition */

/** @type {Set<(condition: Condition) => void>} */
const listeners = new Set();
/** @type {Map<symbol, Condition>} what each request that has to wait is waiting for */
const waiting = new Map();
let wasDown = false;
/** @type {(wrong: boolean) => Promise<string | null>} */
let askForKey = async () => null;
/** @type {Promise<string | null> | null} */
let asking = null;

/**
 * Call `listener` when the service becomes busy, stops answering or is back.
 *
 * @param {(condition: Condition) => void} listener
 * @returns {() => void} ends the subscription
 */
export function onCondition(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** @param {(wrong: boolean) => Promise<string | null>} ask asks the person for the key; null if there is none */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

/**
 * Tell the listeners what matters most of all that requests wait for.
 *
 * @param {symbol} request
 * @param {Condition | null} condition what it waits for; null if it does not
 */
function tell(request, condition) {
  if (!condition && !waiting.delete(request)) return;
  if (condition) waiting.set(request, condition);
  const [worst] = [...waiting.values()].sort((a, b) => rank(b) - rank(a));
  const isDown = worst?.kind === "down";
  for (const listener of listeners) listener(worst ?? { kind: wasDown ? "back" : "ready" });
  wasDown = isDown;
}

/** @param {Condition} condition */
function rank(condition) {
  return condition.kind === "busy" ? condition.until : Infinity;
}

/**
 * Return the JSON that the service answers. Throws `Failure`, or the signal's reason.
 *
 * @param {string} path
 * @param {object | null} body null for GET
 * @param {AbortSignal} [signal]
 * @returns {Promise<any>}
 */
export async function call(path, body, signal) {
  const response = await respond(path, body, signal);
  return response.json();
}

/**
 * Yield the events of a stream. Leaving the loop, or the signal, ends the request, and with it the model's work.
 *
 * @param {string} path
 * @param {object} body
 * @param {AbortSignal} signal
 * @returns {AsyncGenerator<any>}
 */
export async function* stream(path, body, signal) {
  const response = await respond(path, { ...body, stream: true }, signal);
  if (!response.body) throw new Failure(0, "The answer is empty.");
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const lines = (rest + value).split("\n");
      rest = lines.pop() ?? "";
      for (const line of lines) {
        if (line.startsWith("data: ") && line !== "data: [DONE]") yield JSON.parse(line.slice("data: ".length));
      }
    }
  } catch (error) {
    if (signal.aborted) throw signal.reason;
    throw error instanceof Failure ? error : new Failure(0, "The connection was lost, so the text is cut off.");
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * @param {string} path
 * @param {object | null} body
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response>} a success
 */
async function respond(path, body, signal) {
  const request = Symbol(path);
  try {
    for (let retries = 0; ; ) {
      const key = sessionStorage.getItem(KEY);
      const response = await send(path, body, key, signal);
      if (response?.ok) return response;
      const failure = response && (await failureOf(response));
      if (failure?.status === 401) {
        if (!(await obtainKey(key))) throw failure;
      } else if (failure?.retrySeconds && retries++ < RETRIES) {
        tell(request, { kind: "busy", until: Date.now() + failure.retrySeconds * 1000 });
        await pause(failure.retrySeconds * 1000, signal);
      } else if (!failure || (failure.status === 503 && retries++ < RETRIES)) {
        tell(request, { kind: "down" });
        await untilReady(signal);
      } else {
        throw failure;
      }
    }
  } finally {
    tell(request, null);
  }
}

/**
 * @param {string} path
 * @param {object | null} body
 * @param {string | null} key
 * @param {AbortSignal} [signal]
 * @returns {Promise<Response | null>} null if nobody answers
 */
async function send(path, body, key, signal) {
  /** @type {Record<string, string>} */
  const headers = body ? { "content-type": "application/json" } : {};
  if (key) headers["authorization"] = `Bearer ${key}`;
  /** @type {RequestInit} */
  const options = { method: body ? "POST" : "GET", headers, cache: "no-store" };
  if (body) options.body = JSON.stringify(body);
  if (signal) options.signal = signal;
  try {
    return await fetch(new URL(path.slice(1), ROOT), options);
  } catch {
    signal?.throwIfAborted();
    return null;
  }
}

/**
 * Let the person enter the key, once for all requests that need it.
 *
 * @param {string | null} refused the key that was refused, if there was one
 * @returns {Promise<boolean>} whether there is another key now
 */
async function obtainKey(refused) {
  if (sessionStorage.getItem(KEY) !== refused) return true; // another request has asked meanwhile
  asking ??= askForKey(refused !== null).finally(() => (asking = null));
  const key = await asking;
  if (key) sessionStorage.setItem(KEY, key);
  return key !== null;
}

/**
 * Return when the service is ready again.
 *
 * @param {AbortSignal} [signal]
 */
async function untilReady(signal) {
  do await pause(POLL_MS, signal);
  while (!(await send("/readyz", null, null, signal))?.ok);
}

/**
 * @param {number} milliseconds
 * @param {AbortSignal} [signal]
 * @returns {Promise<void>}
 */
function pause(milliseconds, signal) {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
  });
}
