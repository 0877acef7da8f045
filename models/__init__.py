"""The three language models, and what they share."""
