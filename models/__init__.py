"""The three language models and the parts that they share."""
