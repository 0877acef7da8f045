"""Errors that the user of `train.py` can fix: reported in one message, without a traceback."""


class TrainingError(Exception):
    """An unusable data set, base model, setting or environment. The message says what was expected and what to do."""


def first_line(error: BaseException) -> str:
    """Return the first line of the message of an error's root cause: some libraries add pages to it."""
    while error.__cause__ is not None:
        error = error.__cause__
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
