/** The page at /ui: three generations of language models read and write the same text. */

import { App } from "./app.js";
import { restoreTheme } from "./core/theme.js";
import { html, render } from "./vendor/preact-htm.js";

restoreTheme();
const root = document.getElementById("page");
if (root) render(html`<${App} />`, root);
