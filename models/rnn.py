"""The LSTM language model: its reference in NumPy, and the model that the service runs. `training/word_models` fits it with torch.

Input and output embeddings are tied (Press & Wolf 2017, https://arxiv.org/abs/1608.05859) and adaptive (Grave et al. 2017,
https://arxiv.org/abs/1609.04309; Baevski & Auli 2019, https://arxiv.org/abs/1809.10853). The vocabulary, sorted by frequency, is split
into a shortlist, whose vectors have the width of the model, and bands of rarer words, which have narrower vectors and a projection.
The softmax over the shortlist has an additional entry for each band; the probability of a rare word is that of its band times the
word's probability within the band.
"""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from models.base import NOTHING_GENERATED, Prompt, PromptLogprobs, SamplingParams, Token, until_stop
from models.engines import Supervision
from models.engines.lstm import LSTMEngine
from models.spelling import Spelling
from models.words import Vocabulary, count_tokens, require_text

Array = NDArray[np.float32]

LOGPROBS_CHUNK = 256
"""Words whose output distributions are computed at once; a long text at once would take gigabytes."""


@dataclass(frozen=True)
class Band:
    """A band of rare words: their vectors, shape (words, narrow), and the projection to the model's width, shape (narrow, width)."""

    vectors: Array
    projection: Array


class LSTM:
    """The weights, and the forward pass in fp32 for the log-probabilities of whole texts."""

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

    def embed(self, id: int) -> Array:
        """Return the vector of a word, shape (width,)."""
        if id < self._shortlist:
            shortlisted: Array = self._head[id]
            return shortlisted
        band = next(n for n, end in enumerate(self._band_starts[1:]) if id < end)
        result: Array = self._bands[band].vectors[id - self._band_starts[band]] @ self._bands[band].projection
        return result

    def logprobs(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return log P(ids[i + 1] | ids[: i + 1]) for each i, shape (len(ids) - 1,), for a text from its beginning."""
        x = np.stack([self.embed(int(id)) for id in ids[:-1]])
        for ih, hh, bias in self._layers:
            gates = x @ ih.T + bias
            hidden = cell = np.zeros(hh.shape[1], np.float32)
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

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `lstm.safetensors`, `vocabulary.json` and `spelling.npz`."""
        vocabulary, spelling = Vocabulary.load(directory / "vocabulary.json"), Spelling.load(directory / "spelling.npz")
        return cls(vocabulary, spelling, load_file(directory / "lstm.safetensors"))


class RNN:
    """The LSTM as the service runs it: see `TextModel`. Words outside the vocabulary are read as the unknown word.

    A text has exactly `params.length` words unless a stop string ends it, because boundaries and unknown words are never generated.
    """

    def __init__(self, engine: LSTMEngine) -> None:
        self.engine = engine

    @classmethod
    def load(cls, directory: Path, supervision: Supervision = Supervision()) -> Self:
        """Start the engine for an artifact. Raises EngineStopped if it cannot start."""
        return cls(LSTMEngine(directory, supervision))

    def count(self, prompt: Prompt) -> int:
        """See `TextModel`."""
        return count_tokens(require_text(prompt))

    def stream(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[Token]:
        """See `TextModel.stream`."""
        text = require_text(prompt)
        return until_stop(self.engine.stream(text, params), params.stop) if params.length else _nothing()

    async def stream_with_prompt_logprobs(self, prompt: Prompt, params: SamplingParams) -> AsyncGenerator[PromptLogprobs | Token]:
        """See `TextModel.stream_with_prompt_logprobs`."""
        async with aclosing(self.engine.stream(require_text(prompt), replace(params, length=0, stop=()))) as readings:
            async for read in readings:
                yield PromptLogprobs(read.logprobs)
        async with aclosing(self.stream(prompt, params)) as tokens:
            async for token in tokens:
                yield token

    def close(self) -> None:
        """Stop the engine. Requests in progress fail."""
        self.engine.close()


async def _nothing() -> AsyncGenerator[Token]:
    yield NOTHING_GENERATED


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
