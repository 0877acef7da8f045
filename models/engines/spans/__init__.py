"""The search for the best answers that are spans of a passage: see `Engine.best_spans`."""
