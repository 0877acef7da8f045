"""Text from a client, made safe to repeat in a response or a log line."""

import logging
from urllib.parse import quote

FIELD_CHARACTERS = 200
"""The longest value in a log line."""


def printable(text: str, limit: int) -> str:
    """Return `text`, cut to `limit` characters, with escapes for control characters, line breaks, surrogates and all else not printable."""
    cut = text if len(text) <= limit else f"{text[:limit]}… ({len(text):,} characters)"
    if cut.isprintable():
        return cut
    return "".join(character if character.isprintable() else character.encode("unicode_escape").decode() for character in cut)


def log_field(value: str | bytes) -> str:
    """Return `value` for a log line, percent-encoded, so that it can contain neither a line break nor the line's own delimiters."""
    encoded = value.encode(errors="backslashreplace") if isinstance(value, str) else value
    cut = quote(encoded[:FIELD_CHARACTERS], safe="/:;=@!$&'*+~ ")
    return cut if len(encoded) <= FIELD_CHARACTERS else f"{cut}...{len(encoded)}"


class EscapingFilter(logging.Filter):
    """Escapes control characters in every message, because libraries log parts of requests too (OpenTelemetry: the header `baggage`)."""

    def filter(self, record: logging.LogRecord) -> bool:
        """See `logging.Filter`."""
        message = record.getMessage()
        if not message.isprintable():
            record.msg, record.args = printable(message, len(message)), ()
        return True


def escape_log_lines() -> None:
    """Add the filter to all handlers of this process."""
    loggers = [logging.getLogger(), *(logging.getLogger(name) for name in logging.root.manager.loggerDict)]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        if not any(isinstance(existing, EscapingFilter) for existing in handler.filters):
            handler.addFilter(EscapingFilter())
