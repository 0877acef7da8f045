"""Compare all models of a run on the same held-out text."""
