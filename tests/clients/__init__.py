"""Generated clients, and tools that read the OpenAPI document."""
