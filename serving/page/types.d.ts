/** The types that the modules share, for `make page-types` alone. Those of the API come from docs/openapi.json. */
import type { components } from "../../clients/typescript/schema.d.ts";

export type Schemas = components["schemas"];
export type ModelName = "bigram" | "rnn" | "llm";
export type PerModel<T> = Record<ModelName, T>;

/** What a model thought possible at a place of a text. */
export interface Alternative {
  text: string;
  /** From 0 to 1. */
  probability: number;
}

/** A token with its place in the text, in code points. */
export interface Piece {
  text: string;
  start: number;
  end: number;
  /** What the model spent on it; null for the first token of a text if the model needs a token before it. */
  bits: number | null;
  /** The most probable tokens here, in descending order. */
  alternatives: Alternative[];
}

/** A text as one model read it. */
export interface Reading {
  characters: string[];
  pieces: Piece[];
  /** Bits of each character: those of its token, spread evenly. */
  bits: number[];
  tag: string;
}

/** The view and its fields, as the address holds them. */
export interface Address {
  view: string;
  fields: Record<string, string>;
}

export interface ViewProps {
  fields: Record<string, string>;
  /** Changes fields of the address; an empty string removes one. */
  change: (fields: Record<string, string>) => void;
  info: Schemas["Info"] | null;
  dark: boolean;
  /** Says what the dialog "Share" offers besides the address. */
  share: (content: Shareable) => void;
}

/** What a view has to share. */
export interface Shareable {
  /** The fields of the view as they are now, also those that the address leaves out. */
  fields?: Record<string, string>;
  requests: { name: string; request: ApiRequest }[];
  /** Draws a picture card, if there is one. */
  draw?: (canvas: HTMLCanvasElement) => void;
}

/** How the next token is chosen. */
export interface Sampling {
  temperature: number;
  topK: number;
  topP: number;
}

/** A request, as the snippets spell it. */
export interface ApiRequest {
  path: string;
  body: Record<string, unknown>;
}
