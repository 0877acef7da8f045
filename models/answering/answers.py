"""An answer to a question, what its score means, and when a model declines to answer."""

import math
from dataclasses import dataclass
from typing import Any, Self

from pydantic import BaseModel, ConfigDict

DECLINED = "The context does not say."
"""How a model says in words that the context does not answer the question."""


@dataclass(frozen=True)
class AnswerOptions:
    """How a question is to be answered."""

    length: int = 64
    """The maximum number of tokens in an answer."""
    no_answer_threshold: float | None = None
    """Decline if the probability that the context does not tell is above this; 1 always answers. None: the model's own threshold."""
    extractive: bool = False
    """The answer must be a span of the context. If the text that the model writes is none, the most probable span is the answer."""
    count: int = 1
    """How many answers to return. All but the first are spans of the context."""


@dataclass(frozen=True)
class Candidate:
    """One of several answers. See `Answer`."""

    answer: str
    score: float
    likelihood: float
    start: int | None
    end: int | None


@dataclass(frozen=True)
class Answer:
    """An answer with the fields of transformers' question-answering pipeline, and some more."""

    answer: str | None
    """None if the model declines: the context does not tell."""
    score: float
    """The probability, from 0 to 1, that this answer is right or, without an answer, that the context does not tell."""
    likelihood: float
    """The probability that the model assigns to exactly this answer and its end, given that it answers; without an answer, to none. For an
    answer that was cut off at the length limit, the probability of the tokens generated so far."""
    no_answer_probability: float | None
    """The probability that the context does not tell. None if the model was not trained to decline, or had no context."""
    start: int | None
    """Offset of the answer's first character in the context; None if the answer is not a span of the context."""
    end: int | None
    """Offset after the answer's last character; None if the answer is not a span of the context."""
    tokens: int
    """Number of generated tokens, including that of the end."""
    ended: bool
    """Whether the model ended the answer before the length limit."""
    candidates: tuple[Candidate, ...] = ()
    """The best answers, this one first, if several were asked for."""


class LogisticMap(BaseModel):
    """Maps probabilities to a calibrated probability: a logistic regression on their log-odds (Platt scaling).

    Platt 1999, "Probabilistic outputs for support vector machines"; with log-odds as in Kull et al. 2017, "Beta calibration".
    """

    model_config = ConfigDict(frozen=True)

    intercept: float
    weights: tuple[float, ...]
    """One for each probability."""

    def __call__(self, *probabilities: float) -> float:
        """Return the calibrated probability."""
        logit = self.intercept + sum(weight * log_odds(p) for weight, p in zip(self.weights, probabilities, strict=True))
        return 1 / (1 + math.exp(-min(max(logit, -30.0), 30.0)))


def log_odds(probability: float) -> float:
    """Return log(p / (1 − p)), with p kept one millionth away from 0 and 1: the arithmetic of an engine is no more precise."""
    p = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(p / (1 - p))


class AnswerSettings(BaseModel):
    """How a model's answers are to be read. An artifact holds them in `trigen.json`."""

    model_config = ConfigDict(frozen=True)

    abstains: bool = False
    """Whether the model was trained to decide first whether the context answers the question."""
    no_answer_threshold: float = 1.0
    """The model declines if the probability that the context does not tell is above this. It was chosen on validation questions."""
    unanswerable: LogisticMap | None = None
    """The probability that the context does not tell, from the model's own. None: they are the same."""
    right: LogisticMap | None = None
    """The probability that an answer is right, from its likelihood and the model's own probability that there is an answer. None: their
    product."""

    @classmethod
    def of(cls, settings: dict[str, Any]) -> Self:
        """Read them from the content of `trigen.json`; an artifact without them always answers."""
        return cls.model_validate(settings.get("answers", {}))

    def no_answer_probability(self, declined: float) -> float:
        """Return the calibrated probability that the context does not tell, given the model's own."""
        return self.unanswerable(declined) if self.unanswerable else declined

    def score(self, likelihood: float, declined: float | None) -> float:
        """Return the probability that an answer is right. `declined` is the model's own probability of none, if it decided."""
        if declined is None:
            return likelihood
        return self.right(likelihood, 1 - declined) if self.right else likelihood * (1 - declined)


ALWAYS_ANSWERS = AnswerSettings()
"""The settings of a model that was not trained to decline."""
DEFAULT_OPTIONS = AnswerOptions()
