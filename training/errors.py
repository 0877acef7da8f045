"""What the user of `train.py` can mend: reported in one message, without a traceback."""


class TrainingError(Exception):
    """A wrong data set, base model or environment; the message says what was expected and what to do."""


def first_line(error: Exception) -> str:
    """What an error says, without the pages that some libraries add."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
