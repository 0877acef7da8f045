"""The process that runs the LSTM: `python -m models.engines.lstm_process FD`, started by `lstm.py`.

All texts advance together, by one word in each step. A text does not depend on the others: see `models/lstm_batch.py`.
"""

import math
import os
import sys
import time
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
from safetensors.numpy import load_file

from models.base import Logprob, SamplingParams, Token, join
from models.engines.supervision.flushing import FlushSchedule
from models.engines.supervision.loop import main
from models.engines.supervision.messages import AddRequest, Cancel, FindSpans, ReadLogprobs, StepReport, TextOutput
from models.lstm_batch import FIRST_WORD, Array, BatchedLSTM
from models.sampling import sample_from_weights
from models.spelling import Spelling
from models.words import BOUNDARY, Vocabulary, iterate_tokens, prompt_logprobs, require_text, without_leading_space

MAX_STREAMS = 4
"""The most cores to use: more would take them from the LLM."""
SCORED_TEXTS = 4
"""Texts with log-probabilities that advance in a step. Each takes as long as several texts without; the others wait for their turn."""


@dataclass(eq=False)
class _Text:
    """A request in progress."""

    id: int
    prompt: str
    params: SamplingParams
    state: Array
    next_id: int = BOUNDARY
    """The word to read in the next step."""
    generated: int = 0
    tokens: list[Token] = field(default_factory=list)
    """The tokens that have not been flushed."""
    prompt_logprobs: list[Logprob] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.words = iterate_tokens(self.prompt.rstrip(" "))  # a space at the end belongs to the next word
        self.generator = np.random.default_rng(self.params.seed)
        self.schedule = FlushSchedule.of(self.params)

    @property
    def scored(self) -> bool:
        """Whether it needs log-probabilities."""
        return self.params.logprobs is not None or not self.params.length

    @property
    def finished(self) -> bool:
        return bool(self.tokens and self.tokens[-1].finish_reason)


class LSTMBatch:
    """The texts in progress and the model that advances them. See `Stepper`."""

    wakeup = None

    def __init__(self, vocabulary: Vocabulary, spelling: Spelling, model: BatchedLSTM) -> None:
        self._vocabulary, self._spelling, self._model = vocabulary, spelling, model
        self._texts: dict[int, _Text] = {}
        self._scored: deque[_Text] = deque()
        """The texts with log-probabilities, in the order of their next turns."""
        self._steps, self._reported_running = 0, 0

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read an artifact."""
        spelling = Spelling.load(directory / "spelling.npz")
        spelling.bits(["a"])  # now, because it reads its tables on first use
        vocabulary = Vocabulary.load(directory / "vocabulary.json")
        return cls(vocabulary, spelling, BatchedLSTM(load_file(directory / "lstm.safetensors"), min(MAX_STREAMS, _processors())))

    @property
    def idle(self) -> bool:
        """See `Stepper`."""
        return not self._texts

    def handle(self, message: AddRequest | ReadLogprobs | FindSpans | Cancel) -> Iterable[StepReport]:
        """See `Stepper`."""
        if isinstance(message, Cancel):
            if text := self._texts.pop(message.id, None):
                self._forget(text)
        elif isinstance(message, AddRequest):
            text = _Text(message.id, require_text(message.prompt), message.params, self._model.initial_state())
            self._texts[text.id] = text
            if text.scored:
                self._scored.append(text)
        return ()

    def step(self) -> Iterable[StepReport]:
        """See `Stepper`."""
        turns = [self._scored[n] for n in range(min(SCORED_TEXTS, len(self._scored)))]
        self._scored.rotate(-len(turns))
        if texts := [text for text in self._texts.values() if not text.scored] + turns:
            self._advance(texts)
        self._steps += 1
        now, running = time.monotonic(), len(self._texts)
        outputs = []
        for text in [text for text in self._texts.values() if text.tokens and text.schedule.due(now, running, finished=text.finished)]:
            outputs.append(TextOutput(text.id, join(text.tokens)))
            if text.finished:
                del self._texts[text.id]
                self._forget(text)
            text.tokens.clear()
        if not outputs and len(self._texts) == self._reported_running:
            return ()
        self._reported_running = len(self._texts)
        return (StepReport(self._steps, self._reported_running, outputs, ()),)

    def _forget(self, text: _Text) -> None:
        if text.scored:
            self._scored.remove(text)

    def _advance(self, texts: Sequence[_Text]) -> None:
        """Read the next word of each text; where the prompt ends, generate a word."""
        states = self._model.read(np.array([text.next_id for text in texts]), np.stack([text.state for text in texts]))
        generating = []
        for text, state in zip(texts, states, strict=True):
            text.state = state
            if (word := next(text.words, None)) is None:
                if text.params.length:
                    generating.append(text)
                else:
                    logprobs = prompt_logprobs(text.prompt_logprobs).logprobs
                    text.tokens.append(Token("", finish_reason="length", count=0, logprobs=logprobs))
                continue
            if not text.params.length:
                text.prompt_logprobs.append(self._logprob(text, word))
            (text.next_id,) = self._vocabulary.encode([word])
        if generating:
            self._generate(generating)

    def _generate(self, texts: list[_Text]) -> None:
        """Draw the next word of texts whose prompts have been read."""
        temperatures = np.array([1.0 if text.params.greedy else text.params.temperature for text in texts], np.float32)
        rows = zip(texts, temperatures.tolist(), strict=True)
        for block in self._model.distributions(np.stack([text.state for text in texts]), temperatures):
            # The block comes first: `zip` asks it for its end before it takes another text.
            for weights, sums, total, (text, temperature) in zip(block.weights, block.sums, block.totals, rows, strict=False):
                column = sample_from_weights(weights, sums, text.params, text.generator)
                logprob = temperature * math.log(weights[column]) - math.log(total)
                self._append(text, column, logprob)

    def _append(self, text: _Text, column: int, logprob: float) -> None:
        """Add a word that has been drawn to its text."""
        text.next_id = FIRST_WORD + column
        text.generated += 1
        word = self._vocabulary.word(text.next_id)
        token = Token(
            word,
            cumulative_logprob=logprob if text.params.cumulative_logprob else None,
            finish_reason="length" if text.generated == text.params.length else None,
            logprobs=() if text.params.logprobs is None else (self._logprob(text, word),),
        )
        text.tokens.append(without_leading_space(token) if text.generated == 1 and text.prompt.endswith(" ") else token)

    def _logprob(self, text: _Text, word: str) -> Logprob:
        """Return the entry of `word` as the next word of a text."""
        return self._vocabulary.logprob(word, self._model.logprobs(text.state), self._spelling, text.params.logprobs or 0)


def _processors() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


if __name__ == "__main__":
    main(sys.argv, LSTMBatch.load)
