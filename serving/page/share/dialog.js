/** Share: the address of what is seen, the same request for other programs, and a picture card. */

import { html, useEffect, useRef, useState } from "../vendor/preact-htm.js";
import { LANGUAGES } from "./snippets.js";

/**
 * @param {object} props
 * @param {import("../types.d.ts").Shareable} props.content
 * @param {string} props.address
 * @param {boolean} props.hasKey whether the service needs a key
 * @param {() => void} props.onClose
 */
export function ShareDialog({ content, address, hasKey, onClose }) {
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  const [language, setLanguage] = useState("curl");
  const [chosen, setChosen] = useState(0);
  useEffect(() => dialog.current?.showModal(), []);
  const root = new URL("../../", import.meta.url).href.replace(/\/$/, "");
  const request = (content.requests[chosen] ?? content.requests[0])?.request;
  const code = request ? LANGUAGES[language]?.(request, root, hasKey) ?? "" : "";
  return html`<dialog ref=${dialog} aria-labelledby="share-title" onClose=${onClose}>
    <div class="stack">
      <div class="dialog-head">
        <h2 id="share-title">Share</h2>
        <button type="button" class="quiet" aria-label="Close" onClick=${() => dialog.current?.close()}>✕</button>
      </div>
      <div>
        <label for="share-link">The address holds the text, the settings and the models’ tags</label>
        <div class="row-of-controls nowrap">
          <input id="share-link" type="text" readonly value=${address} />
          <${Copy} text=${address} />
        </div>
      </div>
      ${content.draw ? html`<${Card} draw=${content.draw} />` : null}
      ${request
        ? html`<div class="stack tight">
            <h3>The same request</h3>
            <div class="row-of-controls">
              <${Choice} label="Language" options=${Object.keys(LANGUAGES)} chosen=${language} onChoose=${setLanguage} />
              ${content.requests.length > 1
                ? html`<${Choice}
                    label="Model"
                    options=${content.requests.map(({ name }) => name)}
                    chosen=${content.requests[chosen]?.name}
                    onChoose=${(/** @type {string} */ name) => setChosen(content.requests.findIndex((other) => other.name === name))}
                  />`
                : null}
              <${Copy} text=${code} />
            </div>
            <pre tabindex="0" aria-label="The request for ${language}"><code>${code}</code></pre>
          </div>`
        : null}
    </div>
  </dialog>`;
}

/** @param {{text: string}} props */
function Copy({ text }) {
  const [copied, setCopied] = useState("");
  const copy = async () => {
    await navigator.clipboard.writeText(text);
    setCopied(text);
  };
  return html`<button type="button" onClick=${copy}><span aria-live="polite">${copied === text ? "Copied" : "Copy"}</span></button>`;
}

/**
 * @param {object} props
 * @param {string} props.label
 * @param {string[]} props.options
 * @param {string | undefined} props.chosen
 * @param {(option: string) => void} props.onChoose
 */
function Choice({ label, options, chosen, onChoose }) {
  return html`<div class="chips" role="group" aria-label=${label}>
    ${options.map(
      (option) => html`<button type="button" key=${option} aria-pressed=${option === chosen} onClick=${() => onChoose(option)}>${option}</button>`,
    )}
  </div>`;
}

/** @param {{draw: (canvas: HTMLCanvasElement) => void}} props */
function Card({ draw }) {
  const [url, setUrl] = useState("");
  useEffect(() => {
    let made = "";
    const canvas = document.createElement("canvas");
    draw(canvas);
    canvas.toBlob((blob) => blob && setUrl((made = URL.createObjectURL(blob))), "image/png");
    return () => URL.revokeObjectURL(made);
  }, [draw]);
  return html`<div class="stack tight">
    <img src=${url || undefined} width="1200" height="630" alt="The text as the three models read it, as a picture card" />
    <div><a class="button" href=${url} download="trigen-surprise.png">Download the picture</a></div>
  </div>`;
}
