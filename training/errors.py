"""What the user of `train.py` can mend: reported in one message, without a traceback."""


class TrainingError(Exception):
    """A wrong data set, base model or environment; the message says what was expected and what to do."""
