"""All models of a run, compared on the same held-out text."""
