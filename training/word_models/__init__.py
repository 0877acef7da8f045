"""Fit the word models: the bigram and the LSTM."""
