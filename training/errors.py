"""What the user of `train.py` can mend: reported in one message, without a traceback."""


class TrainingError(Exception):
    """A wrong data set, base model or environment; the message says what was expected and what to do."""


def first_line(error: BaseException) -> str:
    """What an error says, or what the error says that it was raised from, without the pages that some libraries add."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
