"""The LSTM language model as it is served: NumPy alone, one step a word. `training/lstm.py` fits it with torch.

Input and output embeddings are tied (Press & Wolf 2017, https://arxiv.org/abs/1608.05859) and adaptive (Grave et al. 2017,
https://arxiv.org/abs/1609.04309; Baevski & Auli 2019, https://arxiv.org/abs/1809.10853): the vocabulary, sorted by frequency, is split
into a shortlist, whose vectors have the width of the model, and bands of rarer words with narrower vectors and a projection each. A word's
probability is that of the shortlist's softmax, which has an entry for each band as well, times that of its band's.
"""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from models.base import FinishReason, Prompt, SamplingParams, Token, TokenScore, prompt_token, until_stop
from models.sampling import log_softmax, sample
from models.spelling import Spelling
from models.words import BOUNDARY, UNKNOWN, Vocabulary, join, require_text, tokenize, without_first_space

Array = NDArray[np.float32]
State = list[tuple[Array, Array]]
"""Of each layer the hidden and the cell state, shape (hidden,) each."""


@dataclass(frozen=True)
class Band:
    """Rarer words: their vectors, shape (words, narrow), and the projection, shape (narrow, width)."""

    words: Array
    projection: Array


class LSTM:
    """The weights, and one step forward."""

    def __init__(self, vocabulary: Vocabulary, spelling: Spelling, weights: dict[str, Array]) -> None:
        self.vocabulary, self.spelling = vocabulary, spelling
        self.parameters = sum(weight.size for weight in weights.values())
        layers = sum(name.endswith("weight_ih_l0") for name in weights)
        self._layers = [
            (
                weights[f"layers.{n}.weight_ih_l0"],
                weights[f"layers.{n}.weight_hh_l0"],
                weights[f"layers.{n}.bias_ih_l0"] + weights[f"layers.{n}.bias_hh_l0"],
            )
            for n in range(layers)
        ]
        bands = sum(name.endswith(".projection") for name in weights)
        self._bands = [Band(weights[f"words.bands.{n}.words"], weights[f"words.bands.{n}.projection"]) for n in range(bands)]
        self._head, self._bias = weights["words.head"], weights["words.bias"]
        self._shortlist = len(self._head) - bands
        self._firsts = [self._shortlist, *(self._shortlist + np.cumsum([len(band.words) for band in self._bands]))]
        """The id with which each band begins, and the size of the vocabulary."""

    def initial_state(self) -> State:
        """Zeros: the state before the first word of a text."""
        return [(np.zeros(hh.shape[1], np.float32), np.zeros(hh.shape[1], np.float32)) for _, hh, _ in self._layers]

    def embed(self, id: int) -> Array:
        """The vector of a word, shape (width,)."""
        if id < self._shortlist:
            shortlisted: Array = self._head[id]
            return shortlisted
        band = next(n for n, first in enumerate(self._firsts[1:]) if id < first)
        result: Array = self._bands[band].words[id - self._firsts[band]] @ self._bands[band].projection
        return result

    def step(self, id: int, state: State) -> tuple[Array, State]:
        """Read one word; returns the top layer's output, shape (width,), and the new state."""
        x, new = self.embed(id), []
        for (ih, hh, bias), (hidden, cell) in zip(self._layers, state, strict=True):
            x, cell = _cell(ih @ x + hh @ hidden + bias, cell)
            new.append((x, cell))
        return x, new

    def next_logprobs(self, output: Array) -> NDArray[np.float64]:
        """Log P of every word as the next, shape (V,), from the output of `step`."""
        head = log_softmax(self._head @ output + self._bias)
        bands = [head[self._shortlist + n] + log_softmax(band.words @ (band.projection @ output)) for n, band in enumerate(self._bands)]
        return np.concatenate([head[: self._shortlist], *bands])

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Log P(ids[i + 1] | ids[: i + 1]) for each i, shape (len(ids) - 1,): a text from its beginning."""
        x = np.stack([self.embed(int(id)) for id in ids[:-1]])
        for ih, hh, bias in self._layers:
            gates, (hidden, cell) = x @ ih.T + bias, self.initial_state()[0]
            for at, gate in enumerate(gates):
                hidden, cell = _cell(gate + hh @ hidden, cell)
                x[at] = hidden
        words, result = ids[1:], np.empty(len(ids) - 1)
        for first in range(0, len(x), 256):  # the softmax of a long text at once would take gigabytes
            part = slice(first, first + 256)
            result[part] = self._logprobs_of(words[part], x[part])
        return result

    def _logprobs_of(self, words: NDArray[np.int64], outputs: Array) -> NDArray[np.float64]:
        head = outputs @ self._head.T + self._bias
        band_of = np.searchsorted(self._firsts, words, side="right")  # 0: in the shortlist
        column = np.where(band_of > 0, self._shortlist + band_of - 1, words)
        result: NDArray[np.float64] = _pick(head, column)
        for n, band in enumerate(self._bands):
            rows = np.flatnonzero(band_of == n + 1)
            if len(rows):
                result[rows] += _pick(outputs[rows] @ band.projection.T @ band.words.T, words[rows] - self._firsts[n])
        return result

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`."""
        return len(tokenize(require_text(prompt)))

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt`: see `TextModel.stream`. A word that was never seen is read as unknown; always yields `params.length`
        words unless a stop string ends the text: boundaries and unknown words are never generated.

        Each request steps alone, though several could step as one matrix product: that rounds otherwise than a vector's, and a
        text would depend on who else asked.
        """
        text = require_text(prompt)
        return until_stop(join(text, self._walk(text.rstrip(" "), params)), params.stop)

    async def _walk(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        generator, words = np.random.default_rng(params.seed), tokenize(prompt)
        output, state = self.step(BOUNDARY, self.initial_state())
        read: list[TokenScore] = []
        for id, word in zip(self.vocabulary.encode(words), words, strict=True):
            if params.prompt_scores:
                read += self._scores(word, self.next_logprobs(output), params)
            output, state = self.step(id, state)
            await asyncio.sleep(0)  # one word at a time, so that no request holds up another
        for token in prompt_token(params, without_first_space(read)):
            yield token
        for step in range(1, params.length + 1):
            everything = self.next_logprobs(output)
            logprobs = everything.copy()
            logprobs[[BOUNDARY, UNKNOWN]] = -np.inf
            logprobs = log_softmax(logprobs)
            id = sample(logprobs, params, generator)
            word = self.vocabulary.word(id)
            ended: FinishReason | None = "length" if step == params.length else None
            yield Token(word, float(logprobs[id]), ended, scores=self._scores(word, everything, params))
            output, state = self.step(id, state)
            await asyncio.sleep(0)

    def _scores(self, word: str, logprobs: NDArray[np.float64], params: SamplingParams) -> tuple[TokenScore, ...]:
        return () if params.scores is None else (self.vocabulary.score(word, logprobs, self.spelling, params.scores),)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `lstm.safetensors`, `vocabulary.json` and `spelling.npz`."""
        words, spelling = Vocabulary.load(directory / "vocabulary.json"), Spelling.load(directory / "spelling.npz")
        return cls(words, spelling, load_file(directory / "lstm.safetensors"))


def _cell(gates: Array, cell: Array) -> tuple[Array, Array]:
    """Hidden and cell state from the sums of the four gates in torch's order, shape (4 · hidden,), and the cell state before."""
    i, f, g, o = np.split(gates, 4)
    cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(cell), cell


def _sigmoid(x: Array) -> Array:
    # By tanh, which does not overflow.
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def _pick(logits: NDArray[np.floating], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Of each row's log-softmax the entry of its column, shape (rows,)."""
    largest = logits.max(axis=1)
    result: NDArray[np.float64] = (
        logits[np.arange(len(logits)), columns] - largest - np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64))
    )
    return result
