/** The frame: navigation, theme, notices, the key, and the view that the address names. */

import { call, onCondition, onKeyNeeded } from "./api/client.js";
import { formatAddress, parseAddress } from "./core/address.js";
import { MODELS } from "./core/models.js";
import { isDark, onSystemTheme, switchTheme } from "./core/theme.js";
import { ShareDialog } from "./share/dialog.js";
import { forgetReadings } from "./surprise/readings.js";
import { SurpriseView } from "./surprise/view.js";
import { html, useCallback, useEffect, useRef, useState } from "./vendor/preact-htm.js";

/** @typedef {import("./types.d.ts").Schemas} Schemas */
/** @typedef {import("./types.d.ts").Shareable} Shareable */

/** @typedef {(props: import("./types.d.ts").ViewProps) => import("preact").VNode} View */

/**
 * Only the first view comes with the page; the others follow when it is there.
 *
 * @type {Record<string, {name: string, load: () => Promise<View>}>}
 */
const VIEWS = {
  surprise: { name: "Surprise", load: async () => SurpriseView },
  race: { name: "Race", load: async () => (await import("./race/view.js")).RaceView },
  ask: { name: "Ask", load: async () => (await import("./ask/view.js")).AskView },
  guess: { name: "Guess", load: async () => (await import("./guess/view.js")).GuessView },
  models: { name: "Models", load: async () => (await import("./models/view.js")).ModelsView },
};
/** The field of a shared address with the tags of the models that made it. */
const TAGS = "models";
/** Browsers allow few changes of the address a second, and a slider makes many. */
const WRITING_MS = 150;

export function App() {
  const [address, setAddress] = useState(() => parseAddress(location.hash));
  const [views, setViews] = useState(/** @type {Record<string, View>} */ ({ surprise: SurpriseView }));
  const [info, setInfo] = useState(/** @type {Schemas["Info"] | null} */ (null));
  const [dark, setDark] = useState(isDark);
  const [sharing, setSharing] = useState(false);
  const [generation, setGeneration] = useState(0);
  const content = useRef(/** @type {Shareable} */ ({ requests: [] }));
  /** The fields of each view, for the way back to it. */
  const remembered = useRef(/** @type {Record<string, Record<string, string>>} */ ({}));
  const writing = useRef(0);
  const key = useKey();
  const share = useCallback((/** @type {Shareable} */ value) => void (content.current = value), []);

  useEffect(() => {
    const read = () => {
      clearTimeout(writing.current);
      setAddress(parseAddress(location.hash));
    };
    addEventListener("hashchange", read);
    onSystemTheme(() => setDark(isDark()));
    return () => removeEventListener("hashchange", read);
  }, []);
  useEffect(() => {
    let served = "";
    const ask = async () => {
      const next = /** @type {Schemas["Info"]} */ (await call("/info", null));
      if (served && served !== tagsOf(next).join()) {
        forgetReadings(); // the service has come back with other models
        setGeneration((n) => n + 1);
      }
      served = tagsOf(next).join();
      setInfo(next);
    };
    ask().catch(() => {});
    return onCondition((condition) => condition.kind === "back" && ask().catch(() => {}));
  }, []);

  const name = address.view in VIEWS ? address.view : "surprise";
  const View = views[name];
  useEffect(() => {
    document.title = `${VIEWS[name]?.name} · Trigen`;
    VIEWS[name]?.load().then((view) => setViews((before) => ({ ...before, [name]: view })), () => {});
  }, [name]);
  useEffect(() => {
    if (info) for (const { load } of Object.values(VIEWS)) load().catch(() => {}); // they are there before they are needed
  }, [info]);
  remembered.current[name] = address.fields;
  const change = useCallback(
    (/** @type {Record<string, string>} */ fields) => {
      const next = { view: name, fields: { ...remembered.current[name], ...fields } };
      delete next.fields[TAGS]; // what is seen now is made by the models that are served
      remembered.current[name] = next.fields;
      clearTimeout(writing.current);
      writing.current = setTimeout(() => history.replaceState(null, "", formatAddress(next)), WRITING_MS);
      setAddress(next);
    },
    [name],
  );
  const tags = info ? tagsOf(info) : [];
  const sharedTags = address.fields[TAGS]?.split(",") ?? tags;
  const shared = () => {
    const set = Object.entries(address.fields).filter(([, value]) => value !== "");
    const fields = { ...content.current.fields, ...Object.fromEntries(set), [TAGS]: tags.join(",") };
    return new URL(formatAddress({ view: name, fields }), location.href).href;
  };
  const isForeign = tags.length > 0 && sharedTags.join() !== tags.join();

  return html`<div class="frame">
    <div class="top">
      <a class="brand" href="#surprise"><img src="ui/icon.svg" alt="" />Trigen</a>
      <nav aria-label="Views">
        ${Object.entries(VIEWS).map(([id, { name: title }]) => {
          const href = formatAddress({ view: id, fields: remembered.current[id] ?? {} });
          return html`<a key=${id} href=${href} aria-current=${id === name ? "page" : undefined}>${title}</a>`;
        })}
      </nav>
      <div class="tools">
        <button
          type="button"
          class="quiet theme"
          aria-label=${dark ? "Use light colours" : "Use dark colours"}
          title=${dark ? "Light" : "Dark"}
          onClick=${() => (switchTheme(), setDark(isDark()))}
        >
          ${dark ? "☀" : "☾"}
        </button>
        <button type="button" onClick=${() => setSharing(true)}>Share</button>
      </div>
    </div>
    ${isForeign
      ? html`<p class="failure foreign">This address was made with other models (${sharedTags.join(", ")}), so the figures may differ.</p>`
      : null}
    ${View
      ? html`<${View} key=${`${name} ${generation}`} fields=${address.fields} change=${change} info=${info} dark=${dark} share=${share} />`
      : html`<main class="view loading" aria-busy="true"></main>`}
    <footer>
      <span>Everything here is computed by this service, with its public API.</span>
      <a href="docs">API reference</a>
    </footer>
    <${Notice} />
    ${sharing
      ? html`<${ShareDialog} content=${content.current} address=${shared()} hasKey=${key.isNeeded} onClose=${() => setSharing(false)} />`
      : null}
    ${key.dialog}
  </div>`;
}

/** @param {Schemas["Info"]} info */
function tagsOf(info) {
  return MODELS.map((model) => info.models[model].tag);
}

/** Tells why nothing happens: the service is busy, or does not answer. */
function Notice() {
  const [condition, setCondition] = useState(/** @type {import("./api/client.js").Condition} */ ({ kind: "ready" }));
  const [, tick] = useState(0);
  useEffect(() => onCondition(setCondition), []);
  useEffect(() => {
    if (condition.kind === "busy") {
      const timer = setInterval(() => tick((n) => n + 1), 500);
      return () => clearInterval(timer);
    }
    if (condition.kind === "back") {
      const timer = setTimeout(() => setCondition({ kind: "ready" }), 2500);
      return () => clearTimeout(timer);
    }
    return undefined;
  }, [condition]);
  const said = {
    ready: () => "",
    down: () => "The service does not answer; it may be restarting. Trying again…",
    back: () => "The service is back.",
    busy: () => {
      const seconds = condition.kind === "busy" ? Math.max(0, Math.ceil((condition.until - Date.now()) / 1000)) : 0;
      return `The models are busy. Trying again in ${seconds} s.`;
    },
  }[condition.kind]();
  return html`<div role="status" class=${said ? "notice" : ""}>${said}</div>`;
}

/** The dialog that asks for the service's key. */
function useKey() {
  const [question, setQuestion] = useState(/** @type {{wrong: boolean, answer: (key: string | null) => void} | null} */ (null));
  const [isNeeded, setNeeded] = useState(false);
  const dialog = useRef(/** @type {HTMLDialogElement | null} */ (null));
  useEffect(
    () =>
      onKeyNeeded((wrong) => {
        setNeeded(true);
        return new Promise((answer) => setQuestion({ wrong, answer }));
      }),
    [],
  );
  useEffect(() => {
    if (question) dialog.current?.showModal();
  }, [question]);
  const finish = (/** @type {string | null} */ key) => {
    question?.answer(key);
    setQuestion(null);
  };
  const onSubmit = (/** @type {SubmitEvent} */ event) => {
    event.preventDefault();
    const key = new FormData(/** @type {HTMLFormElement} */ (event.target)).get("key");
    if (key) finish(String(key));
  };
  const element = question
    ? html`<dialog ref=${dialog} aria-labelledby="key-title" onClose=${() => finish(null)}>
        <form onSubmit=${onSubmit}>
          <h2 id="key-title">This service needs a key</h2>
          ${question.wrong ? html`<p class="failure" role="alert">The service did not accept this key.</p>` : null}
          <div>
            <label for="key">Key</label>
            <input id="key" name="key" type="password" autocomplete="off" required />
          </div>
          <p class="hint">It stays in this tab, and is forgotten when you close it.</p>
          <div class="row-of-controls"><button class="primary">Use this key</button></div>
        </form>
      </dialog>`
    : null;
  return { isNeeded, dialog: element };
}
