"""What `service.py` calls: request and response schemas, generation, errors, settings."""

__version__ = "1.0.0"
"""Of the HTTP contract, which `docs/openapi.json` holds."""
