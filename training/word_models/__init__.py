"""Fitting the bigram and the LSTM."""
