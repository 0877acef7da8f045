/** A client of the service: openapi-fetch with the types that `make client` generates from docs/openapi.json. */

import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema.d.ts";

export type Schemas = components["schemas"];
type Json = "application/json" | "application/problem+json";

export function trigen(baseUrl: string, key?: string): Client<paths, Json> {
  const headers = key === undefined ? {} : { Authorization: `Bearer ${key}` };
  return createClient<paths, Json>({ baseUrl, headers });
}

/** The stream ended without its last event: the service died, or the connection broke. Send the request again. */
export class CutOff extends Error {
  constructor(options?: ErrorOptions) {
    super("The stream was cut off before its last event. Send the request again.", options);
  }
}

/**
 * Yield the events of a response body, which `parseAs: "stream"` returns. Throws `CutOff` if the last one is missing.
 *
 * Comments, which keep a stream alive, and OpenAI's final `[DONE]` are not events.
 */
export async function* events<Event extends Schemas["GenerateEvent"] | Schemas["CompletionChunk"]>(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<Event> {
  const decoder = new TextDecoder();
  let rest = "";
  let isOver = false;
  for await (const bytes of received(body)) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line === "data: [DONE]") {
        isOver = true;
      } else if (line.startsWith("data: ")) {
        const event = JSON.parse(line.slice("data: ".length)) as Event;
        isOver ||= "finish_reason" in event && Boolean(event.finish_reason);
        yield event;
      }
    }
  }
  if (!isOver) throw new CutOff();
}

async function* received(body: ReadableStream<Uint8Array>): AsyncGenerator<Uint8Array> {
  try {
    yield* body;
  } catch (error) {
    throw new CutOff({ cause: error });
  }
}
