"""The HTTP side of `service.py`: routes, validation, admission, streaming, errors and settings."""

__version__ = "1.0.0"
"""The version of the HTTP API in `docs/openapi.json`."""
