"""Tests of generated clients and of tools that read the OpenAPI document."""
