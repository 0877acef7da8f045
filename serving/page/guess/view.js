/** Guess: you against the three models, word by word. */

import { numberField } from "../core/address.js";
import { RIDDLES } from "../core/examples.js";
import { valueOf } from "../core/fields.js";
import { ABOUT, MODELS } from "../core/models.js";
import { percent, toCharacters, visible } from "../core/text.js";
import { useReadings } from "../surprise/readings.js";
import { scoringRequest } from "../surprise/scoring.js";
import { html, useEffect, useMemo, useRef, useState } from "../vendor/preact-htm.js";
import { play, ranking, totals, wordsToGuess } from "./game.js";

/** @typedef {import("./game.js").Round} Round */

/** @param {import("../types.d.ts").ViewProps} props */
export function GuessView({ fields, change, share }) {
  const number = numberField(fields["text"], 1);
  const text = RIDDLES[(number - 1) % RIDDLES.length] ?? "";
  const characters = useMemo(() => toCharacters(text), [text]);
  const words = useMemo(() => wordsToGuess(characters), [characters]);
  const { readings, failures } = useReadings(text);
  const [rounds, setRounds] = useState(/** @type {Round[]} */ ([]));
  const [sureness, setSureness] = useState(50);
  const [guess, setGuess] = useState("");
  const field = useRef(/** @type {HTMLInputElement | null} */ (null));
  useEffect(() => setRounds([]), [text]);
  useEffect(() => {
    share({ fields: { text: `${number}` }, requests: MODELS.map((model) => ({ name: ABOUT[model].name, request: scoringRequest(model, text) })) });
  }, [text]);

  const { bigram, rnn, llm } = readings;
  const word = words[rounds.length];
  const last = rounds.at(-1);
  const failure = MODELS.map((model) => failures[model]?.message).find(Boolean);
  const submit = (/** @type {string} */ said, /** @type {number} */ percentSure) => {
    if (!word || !bigram || !rnn || !llm) return;
    setRounds([...rounds, play(word, said, percentSure / 100, { bigram, rnn, llm })]);
    setGuess("");
    field.current?.focus();
  };
  const part = (/** @type {number} */ start = 0, /** @type {number | undefined} */ end = undefined) => characters.slice(start, end).join("");

  return html`<main class="view">
    <header>
      <h1>Guess the next word</h1>
      <p class="lead">
        Claude Shannon played this in 1951 to measure how predictable English is. Guess each word, say how sure you are, and see what it cost you
        ${" "}and the three models. Fewer bits win.
      </p>
    </header>
    ${failure ? html`<p class="failure" role="alert">${failure}</p>` : null}
    <div class="guess">
      <section class="card play" aria-label="The game">
        <p class="riddle">
          ${part(0, words[0]?.start)}
          ${rounds.map(
            ({ word: { start }, isRight }) => html`<span key=${start} class=${isRight ? "right" : "wrong"}>${part(start, nextStart(start))}</span>`,
          )}
          ${word
            ? html`<span class="blank"><span class="hidden-text">, and the next word is?</span></span>`
            : html`<span class="muted">${part(words.at(-1)?.end)}</span>`}
        </p>
        ${word
          ? html`<form
              onSubmit=${(/** @type {SubmitEvent} */ event) => {
                event.preventDefault();
                if (guess.trim()) submit(guess, sureness);
              }}
            >
              <div>
                <label for="your-guess">Your guess for word ${rounds.length + 1} of ${words.length}</label>
                <input id="your-guess" type="text" ref=${field} autocomplete="off" autocapitalize="off" spellcheck=${false} value=${guess}
                  onInput=${(/** @type {InputEvent} */ event) => setGuess(valueOf(event))} />
              </div>
              <div class="slider">
                <label for="sureness">How sure are you? <output class="number">${sureness} %</output></label>
                <input id="sureness" type="range" min="1" max="99" step="1" value=${sureness}
                  onInput=${(/** @type {InputEvent} */ event) => setSureness(Number(valueOf(event)))} />
              </div>
              <div class="row-of-controls">
                <button class="primary" disabled=${!llm || !rnn || !bigram}>Guess</button>
                <button type="button" disabled=${!llm || !rnn || !bigram} onClick=${() => submit("", 0)}>No idea</button>
              </div>
            </form>`
          : html`<${Result} rounds=${rounds} onAgain=${() => change({ text: String((number % RIDDLES.length) + 1) })} />`}
        <div role="status">
          ${last
            ? html`<${Reveal} round=${last} />`
            : html`<p class="hint">
                A sure guess costs little if it is right and much if it is wrong: the rest of your belief is spread as the bigram spreads its own.
                ${" "}Words that you guess are underlined with a solid line, the others with dots.
              </p>`}
        </div>
      </section>
      <${Board} rounds=${rounds} />
    </div>
  </main>`;

  /** @param {number} start of a word; the punctuation after it is shown with it */
  function nextStart(start) {
    const i = words.findIndex((candidate) => candidate.start === start);
    return words[i + 1]?.start ?? words[i]?.end;
  }
}

/** @param {{round: Round}} props */
function Reveal({ round }) {
  const said = round.guess ? `You said “${round.guess}”. ` : "";
  return html`<p class="reveal">
    ${said}It was <b>${visible(round.word.text)}</b>. You and the bigram’s share gave it ${percent(2 ** -round.yours)}, which is
    ${" "}<span class="number">${round.yours.toFixed(1)} bits</span>. Before they saw it,
    ${" "}${MODELS.map((model) => `the ${ABOUT[model].said} expected “${visible(round.expected[model])}”`).join(", ")}.
  </p>`;
}

/** @param {{rounds: Round[]}} props */
function Board({ rounds }) {
  const bits = totals(rounds);
  const most = Math.max(1, ...Object.values(bits));
  return html`<section class="card board" aria-label="Bits so far">
    <h2>Bits so far</h2>
    <ol class="bars wide">
      ${ranking(bits).map(
        (player) => html`<li key=${player} class=${player}>
          <span class="word">${player === "you" ? "You" : ABOUT[player].name}</span>
          <span class="track"><span class="bar" style=${{ width: `${(100 * bits[player]) / most}%` }}></span></span>
          <span class="number">${bits[player].toFixed(1)}</span>
        </li>`,
      )}
    </ol>
    <p class="hint">
      ${rounds.length ? `after ${rounds.length} ${rounds.length === 1 ? "word" : "words"}; the fewest win` : "One bit is the surprise of a coin toss."}
    </p>
  </section>`;
}

/**
 * @param {object} props
 * @param {Round[]} props.rounds
 * @param {() => void} props.onAgain
 */
function Result({ rounds, onAgain }) {
  const order = ranking(totals(rounds));
  const place = order.indexOf("you");
  const beaten = order.slice(place + 1).map((player) => (player === "you" ? "" : `the ${ABOUT[player].said}`));
  const said = place === 0 ? "You beat all three models." : beaten.length ? `You beat ${beaten.join(" and ")}.` : "All three models beat you.";
  return html`<div class="stack-form">
    <p class="verdict">${said}</p>
    <div><button type="button" class="primary" onClick=${onAgain}>Another text</button></div>
  </div>`;
}
