"""What `service.py` calls: request and response schemas, generation, errors, settings."""
