/** The address holds the view and its fields behind the #, which browsers never send: `…/ui#surprise?text=…`. */

/** @typedef {import("../types.d.ts").Address} Address */

/**
 * @param {string} hash
 * @returns {Address}
 */
export function parseAddress(hash) {
  const [view = "", query = ""] = hash.replace(/^#/, "").split(/\?(.*)/s);
  return { view, fields: Object.fromEntries(new URLSearchParams(query)) };
}

/**
 * @param {Address} address
 * @returns {string} beginning with #
 */
export function formatAddress({ view, fields }) {
  const query = new URLSearchParams(Object.entries(fields).filter(([, value]) => value !== ""));
  return `#${view}${query.size ? `?${query}` : ""}`;
}

/**
 * @param {string | undefined} value
 * @param {number} otherwise if there is no such number
 * @returns {number}
 */
export function numberField(value, otherwise) {
  return value === undefined || value === "" || !Number.isFinite(Number(value)) ? otherwise : Number(value);
}
