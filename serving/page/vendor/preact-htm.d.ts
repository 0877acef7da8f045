/** The types of preact-htm.js, for `make page-types` alone: the service does not serve this file. */
import type { VNode } from "preact";

export { h, render, Component } from "preact";
export { useCallback, useEffect, useLayoutEffect, useMemo, useReducer, useRef, useState } from "preact/hooks";
export declare const html: (strings: TemplateStringsArray, ...values: unknown[]) => VNode;
