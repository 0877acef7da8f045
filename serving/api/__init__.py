"""The routes: request and response bodies, and the code that answers requests."""
