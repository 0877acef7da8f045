"""The LSTM language model in NumPy, as the service runs it: one step for each word. `training/word_models/lstm.py` fits it with torch.

Input and output embeddings are tied (Press & Wolf 2017, https://arxiv.org/abs/1608.05859) and adaptive (Grave et al. 2017,
https://arxiv.org/abs/1609.04309; Baevski & Auli 2019, https://arxiv.org/abs/1809.10853). The vocabulary, sorted by frequency, is split
into a shortlist, whose vectors have the width of the model, and bands of rarer words, which have narrower vectors and a projection.
The softmax over the shortlist has an additional entry for each band; the probability of a rare word is that of its band times the
word's probability within the band.
"""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from models.base import NOTHING_GENERATED, Logprob, Prompt, PromptLogprobs, SamplingParams, Token, until_stop
from models.sampling import log_softmax, sample
from models.spelling import Spelling
from models.words import BOUNDARY, UNKNOWN, Vocabulary, continue_spacing, prompt_logprobs, require_text, tokenize

Array = NDArray[np.float32]
State = list[tuple[Array, Array]]
"""The hidden and the cell state of each layer, shape (hidden,) each."""

LOGPROBS_CHUNK = 256
"""Words whose output distributions are computed at once; a long text at once would take gigabytes."""


@dataclass(frozen=True)
class Band:
    """A band of rare words: their vectors, shape (words, narrow), and the projection to the model's width, shape (narrow, width)."""

    vectors: Array
    projection: Array


class LSTM:
    """The LSTM's weights and its forward pass."""

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
        """Vectors and biases of the words in the shortlist, followed by those of the bands, shapes (shortlist + bands, width) and
        (shortlist + bands,)."""
        self._shortlist = len(self._head) - bands
        self._band_starts = [self._shortlist, *(self._shortlist + np.cumsum([len(band.vectors) for band in self._bands]))]
        """The first id of each band, followed by the size of the vocabulary."""

    def initial_state(self) -> State:
        """Return the state before the first word of a text: zeros."""
        return [(np.zeros(hh.shape[1], np.float32), np.zeros(hh.shape[1], np.float32)) for _, hh, _ in self._layers]

    def embed(self, id: int) -> Array:
        """Return the vector of a word, shape (width,)."""
        if id < self._shortlist:
            shortlisted: Array = self._head[id]
            return shortlisted
        band = next(n for n, end in enumerate(self._band_starts[1:]) if id < end)
        result: Array = self._bands[band].vectors[id - self._band_starts[band]] @ self._bands[band].projection
        return result

    def step(self, id: int, state: State) -> tuple[Array, State]:
        """Read one word. Returns the top layer's output, shape (width,), and the new state."""
        x, new = self.embed(id), []
        for (ih, hh, bias), (hidden, cell) in zip(self._layers, state, strict=True):
            x, cell = _cell(ih @ x + hh @ hidden + bias, cell)
            new.append((x, cell))
        return x, new

    def next_logprobs(self, output: Array) -> NDArray[np.float64]:
        """Return the log-probability of every word as the next one, shape (V,), from the output of `step`."""
        head = log_softmax(self._head @ output + self._bias)
        bands = [head[self._shortlist + n] + log_softmax(band.vectors @ (band.projection @ output)) for n, band in enumerate(self._bands)]
        return np.concatenate([head[: self._shortlist], *bands])

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log P(ids[i + 1] | ids[: i + 1]) for each i, shape (len(ids) - 1,), for a text from its beginning."""
        x = np.stack([self.embed(int(id)) for id in ids[:-1]])
        for ih, hh, bias in self._layers:
            gates, (hidden, cell) = x @ ih.T + bias, self.initial_state()[0]
            for step, gate in enumerate(gates):
                hidden, cell = _cell(gate + hh @ hidden, cell)
                x[step] = hidden
        words, result = ids[1:], np.empty(len(ids) - 1)
        for first in range(0, len(x), LOGPROBS_CHUNK):
            chunk = slice(first, first + LOGPROBS_CHUNK)
            result[chunk] = self._logprobs_of(words[chunk], x[chunk])
        return result

    def _logprobs_of(self, words: NDArray[np.int64], outputs: Array) -> NDArray[np.float64]:
        """Return log P of each of `words`, shape (n,), given the output of the step before each, shape (n, width)."""
        head = outputs @ self._head.T + self._bias
        band_of = np.searchsorted(self._band_starts, words, side="right")  # 0 for the shortlist, n + 1 for band n
        column = np.where(band_of > 0, self._shortlist + band_of - 1, words)
        result: NDArray[np.float64] = _pick(head, column)
        for n, band in enumerate(self._bands):
            rows = np.flatnonzero(band_of == n + 1)
            if len(rows):
                result[rows] += _pick(outputs[rows] @ band.projection.T @ band.vectors.T, words[rows] - self._band_starts[n])
        return result

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`."""
        return len(tokenize(require_text(prompt)))

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt`: see `TextModel.stream`. Words outside the vocabulary are read as the unknown word.

        Yields exactly `params.length` words unless a stop string ends the text, because boundaries and unknown words are never generated.
        Requests are not batched: a matrix-matrix product rounds differently from a matrix-vector product, so a text would depend on
        concurrent requests.
        """
        text = require_text(prompt)
        return until_stop(continue_spacing(text, self._read_and_generate(text, params)), params.stop)

    async def stream_with_prompt_logprobs(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[PromptLogprobs | Token]:
        """See `TextModel.stream_with_prompt_logprobs`."""
        text = require_text(prompt)
        logprobs: list[Logprob] = []
        output, state = await self._read(text, logprobs, params.logprobs or 0)
        yield prompt_logprobs(logprobs)
        async with aclosing(until_stop(continue_spacing(text, self._generate(output, state, params)), params.stop)) as tokens:
            async for token in tokens:
                yield token

    async def _read_and_generate(self, text: str, params: SamplingParams) -> AsyncGenerator[Token]:
        async with aclosing(self._generate(*await self._read(text), params)) as tokens:
            async for token in tokens:
                yield token

    async def _read(self, text: str, logprobs: list[Logprob] | None = None, top: int = 0) -> tuple[Array, State]:
        """Read a prompt and return the last output and state. If `logprobs` is given, append each word's log-probability to it."""
        words = tokenize(text.rstrip(" "))  # a space at the end belongs to the next word
        output, state = self.step(BOUNDARY, self.initial_state())
        for id, word in zip(self.vocabulary.encode(words), words, strict=True):
            if logprobs is not None:
                logprobs.append(self.vocabulary.logprob(word, self.next_logprobs(output), self.spelling, top))
            output, state = self.step(id, state)
            await asyncio.sleep(0)  # other requests get their turn after each word
        return output, state

    async def _generate(self, output: Array, state: State, params: SamplingParams) -> AsyncGenerator[Token]:
        """Yield words, given the output and state after the last word of the prompt."""
        if not params.length:
            yield NOTHING_GENERATED
        generator = np.random.default_rng(params.seed)
        for step in range(1, params.length + 1):
            logprobs = self.next_logprobs(output)
            drawable_logprobs = logprobs.copy()
            drawable_logprobs[[BOUNDARY, UNKNOWN]] = -np.inf
            drawable_logprobs = log_softmax(drawable_logprobs)
            id = sample(drawable_logprobs, params, generator)
            word = self.vocabulary.word(id)
            yield Token(
                word,
                cumulative_logprob=float(drawable_logprobs[id]) if params.cumulative_logprob else None,
                finish_reason="length" if step == params.length else None,
                logprobs=() if params.logprobs is None else (self.vocabulary.logprob(word, logprobs, self.spelling, params.logprobs),),
            )
            output, state = self.step(id, state)
            await asyncio.sleep(0)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `lstm.safetensors`, `vocabulary.json` and `spelling.npz`."""
        vocabulary, spelling = Vocabulary.load(directory / "vocabulary.json"), Spelling.load(directory / "spelling.npz")
        return cls(vocabulary, spelling, load_file(directory / "lstm.safetensors"))


def _cell(gates: Array, cell: Array) -> tuple[Array, Array]:
    """Return the new hidden state and the new cell state.

    `gates`, shape (4 · hidden,), holds the four gates before their activation functions, in torch's order; `cell` is the previous state.
    """
    i, f, g, o = np.split(gates, 4)
    cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
    return _sigmoid(o) * np.tanh(cell), cell


def _sigmoid(x: Array) -> Array:
    # In terms of tanh, which does not overflow.
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result


def _pick(logits: NDArray[np.floating], columns: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return, for each row of `logits`, the entry of its log-softmax in the column that `columns` gives, shape (rows,)."""
    largest = logits.max(axis=1)
    result: NDArray[np.float64] = (
        logits[np.arange(len(logits)), columns] - largest - np.log(np.exp(logits - largest[:, None]).sum(axis=1, dtype=np.float64))
    )
    return result
