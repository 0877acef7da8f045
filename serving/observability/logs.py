"""The format of the log. BentoML configures Python's logging in each process before it loads the service; this changes the formatters."""

import logging
from datetime import UTC, datetime
from typing import Any

from opentelemetry.trace import get_current_span
from pythonjsonlogger.json import JsonFormatter

from serving.problems import REQUEST_SCOPE
from serving.settings import settings

HIDDEN = frozenset({"levelname_bracketed", "component", "trace_msg", "service_name", "color_message", "taskName"})
"""Fields that BentoML and uvicorn add to a record for their own formats."""


class JSONFormatter(JsonFormatter):
    """Writes a record as one JSON object in one line: time, level, logger, message, the `extra` fields, and the request's ids."""

    def __init__(self) -> None:
        super().__init__("%(message)s", json_ensure_ascii=True)  # so that no character of a message can break a line

    def add_fields(self, log_data: dict[str, Any], record: logging.LogRecord, message_dict: dict[str, Any]) -> None:
        """See `JsonFormatter`."""
        super().add_fields(log_data, record, message_dict)
        for name in HIDDEN:
            log_data.pop(name, None)
        own = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
        }
        own_or_extra = own | log_data
        own_or_extra["request_id"] = _request_id()
        context = get_current_span().get_span_context()
        if context.trace_id:
            own_or_extra["trace_id"] = f"{context.trace_id:032x}"
        log_data.clear()
        log_data.update({name: value for name, value in own_or_extra.items() if value is not None})


def configure_logs() -> None:
    """Apply `TRIGEN_LOG_FORMAT` to every handler of this process. Call it after BentoML has configured logging."""
    if settings().log_format != "json":
        return
    formatter = JSONFormatter()
    loggers = [logging.getLogger(), *(each for each in logging.Logger.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    for handler in {handler for logger in loggers for handler in logger.handlers}:
        handler.setFormatter(formatter)


def _request_id() -> str | None:
    """Return the id of the current request, if there is one."""
    if scope := REQUEST_SCOPE.get(None):
        request_id: str = scope["state"]["request_id"]
        return request_id
    span_id = get_current_span().get_span_context().span_id
    return f"{span_id:016x}" if span_id else None
