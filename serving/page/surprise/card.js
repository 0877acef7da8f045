/** The surprise of a text as a picture to share: three strips with their bits per byte, drawn on a canvas. */

import { ABOUT, MODELS } from "../core/models.js";
import { PALETTE, surpriseColor } from "./scale.js";

/** @typedef {import("../types.d.ts").Reading} Reading */

const WIDTH = 1200;
const HEIGHT = 630;
const MARGIN = 64;
const SERIF = 'Georgia, "Liberation Serif", serif';
const SANS = '"Helvetica Neue", "Segoe UI", "Liberation Sans", Arial, sans-serif';

/**
 * @param {HTMLCanvasElement} canvas
 * @param {import("../types.d.ts").PerModel<Reading>} readings
 * @param {import("../types.d.ts").PerModel<number>} averages bits per byte
 * @param {number} from the first character that is charged
 * @param {boolean} dark
 */
export function drawCard(canvas, readings, averages, from, dark) {
  canvas.width = WIDTH;
  canvas.height = HEIGHT;
  const context = canvas.getContext("2d");
  if (!context) return;
  const ink = dark ? "#f2efe8" : "#1d1c19";
  const muted = dark ? "#b5b0a5" : "#5f5b53";
  context.fillStyle = PALETTE[dark ? "dark" : "light"].paper;
  context.fillRect(0, 0, WIDTH, HEIGHT);
  context.textBaseline = "alphabetic";
  write(context, "How surprised are three generations of language models?", MARGIN, 76, `600 32px ${SANS}`, ink);
  write(context, "The stronger the colour, the more the letters surprised the model.", MARGIN, 112, `22px ${SANS}`, muted);
  MODELS.forEach((model, row) => {
    const top = 140 + row * 148;
    write(context, ABOUT[model].name, MARGIN, top + 26, `600 22px ${SANS}`, ink);
    const number = `${averages[model].toFixed(2)} bits per byte`;
    context.font = `22px ${SANS}`;
    write(context, number, WIDTH - MARGIN - context.measureText(number).width, top + 26, `22px ${SANS}`, muted);
    drawStrip(context, model, readings[model], from, dark, top + 40);
  });
  write(context, "Trigen: a bigram model, an LSTM and a fine-tuned LLM behind one API", MARGIN, HEIGHT - 34, `18px ${SANS}`, muted);
}

/**
 * Write the text in up to three lines, smaller if it is long; what does not fit ends in an ellipsis.
 *
 * @param {CanvasRenderingContext2D} context
 * @param {import("../types.d.ts").ModelName} model
 * @param {Reading} reading
 * @param {number} from
 * @param {boolean} dark
 * @param {number} top
 */
function drawStrip(context, model, reading, from, dark, top) {
  const size = reading.characters.length > 150 ? 22 : 30;
  const line = size * 1.5;
  const right = WIDTH - MARGIN;
  context.font = `${size}px ${SERIF}`;
  let x = MARGIN;
  let y = top;
  for (const piece of reading.pieces) {
    let text = piece.text.replace(/\s/g, " ");
    let width = context.measureText(text).width;
    if (x + width > right) {
      if (y + 2 * line > top + 100) {
        write(context, "…", x, y + size, `${size}px ${SERIF}`, dark ? "#fff" : "#000");
        return;
      }
      x = MARGIN;
      y += line;
      text = text.trimStart();
      width = context.measureText(text).width;
    }
    width = Math.min(width, right - x);
    const isCharged = piece.start >= from;
    const { background, ink } = surpriseColor(model, isCharged ? (piece.bits ?? 0) / (piece.end - piece.start) : 0, dark);
    context.fillStyle = background;
    context.fillRect(x, y, width + 0.5, line - 4);
    write(context, text, x, y + size, `${size}px ${SERIF}`, ink);
    x += width;
  }
}

/**
 * @param {CanvasRenderingContext2D} context
 * @param {string} text
 * @param {number} x
 * @param {number} y
 * @param {string} font
 * @param {string} color
 */
function write(context, text, x, y, font, color) {
  context.font = font;
  context.fillStyle = color;
  context.fillText(text, x, y);
}
