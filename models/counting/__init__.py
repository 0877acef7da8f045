"""Count what does not fit in memory: words, and pairs of words."""
