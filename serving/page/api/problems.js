/** What went wrong, in words for people. */

/** An answer of the service that is no success, or none at all. */
export class Failure extends Error {
  /**
   * @param {number} status 0 if there was no answer
   * @param {string} message for a person
   * @param {number} [retrySeconds] when the service says to come back
   */
  constructor(status, message, retrySeconds) {
    super(message);
    this.status = status;
    this.retrySeconds = retrySeconds;
  }
}

/**
 * @param {Response} response one that is not a success
 * @returns {Promise<Failure>}
 */
export async function failureOf(response) {
  const body = await response.json().catch(() => ({}));
  const detail = String(body.detail ?? body.error?.message ?? "");
  const retry = Number(response.headers.get("retry-after")) || undefined;
  return new Failure(response.status, sentence(response.status, detail, body.error?.code ?? body.errors?.[0]?.type), retry);
}

/**
 * @param {number} status
 * @param {string} detail what the service said
 * @param {string} [code]
 * @returns {string}
 */
function sentence(status, detail, code) {
  if (code === "context_length_exceeded") {
    const numbers = detail.match(/has (\d+) tokens.*context of (\d+)/);
    return numbers ? `This text is too long for the LLM: ${numbers[1]} tokens, and it reads ${numbers[2]} at most. Shorten it.` : detail;
  }
  if (code === "too_many_scored_tokens" || code === "string_too_long" || status === 413) return "This text is too long. Shorten it.";
  if (status === 401) return "The service needs a key.";
  if (status === 429) return "The service is busy.";
  if (status === 503) return "The model is not available at the moment.";
  if (status === 504) return "The model took too long, and the service stopped it. Ask for less, or try again later.";
  if (status >= 500) return "The service failed. Its log has the cause.";
  return detail || `The service answered with status ${status}.`;
}
