"""From a data set to batches: load it, select rows, encode them as sequences, and batch the sequences."""
