/** A client of the service: openapi-fetch with the types that `make client` generates from docs/openapi.json. */

import createClient, { type Client } from "openapi-fetch";
import type { components, paths } from "./schema.d.ts";

export type Schemas = components["schemas"];
type Json = "application/json" | "application/problem+json";

export function trigen(baseUrl: string, key?: string): Client<paths, Json> {
  const headers = key === undefined ? {} : { Authorization: `Bearer ${key}` };
  return createClient<paths, Json>({ baseUrl, headers });
}

/**
 * Yield the events of a response body, which `parseAs: "stream"` returns.
 *
 * Comments, which keep a stream alive, and OpenAI's final `[DONE]` are not events.
 */
export async function* events<Event extends Schemas["GenerateEvent"] | Schemas["CompletionChunk"]>(
  body: ReadableStream<Uint8Array>,
): AsyncGenerator<Event> {
  const decoder = new TextDecoder();
  let rest = "";
  for await (const bytes of body) {
    const lines = (rest + decoder.decode(bytes, { stream: true })).split("\n");
    rest = lines.pop() ?? "";
    for (const line of lines) {
      if (line.startsWith("data: ") && line !== "data: [DONE]") {
        yield JSON.parse(line.slice("data: ".length)) as Event;
      }
    }
  }
}
