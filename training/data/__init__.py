"""From a data set to batches: `squad`, `selection`, `encoding`, `batching`."""
