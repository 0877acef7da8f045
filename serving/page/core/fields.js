/** What people enter. */

/**
 * @param {Event} event of an input or a text field
 * @returns {string} what it holds now
 */
export function valueOf(event) {
  return /** @type {HTMLInputElement | HTMLTextAreaElement} */ (event.target).value;
}
