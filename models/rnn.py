"""The LSTM language model as it is served: NumPy alone, one step a token. `training/lstm.py` fits it with torch.

The artifact is the state dict of the torch module: an embedding, the layers of `torch.nn.LSTM` and the adaptive softmax of
`torch.nn.AdaptiveLogSoftmaxWithLoss` (Grave et al. 2017, https://arxiv.org/abs/1609.04309), which splits the vocabulary, sorted by
frequency, into a head and tails of decreasing width.
"""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file

from models.base import SamplingParams, Token, until_stop
from models.sampling import log_softmax, sample
from models.words import BOUNDARY, UNKNOWN, Vocabulary, join, tokenize

Array = NDArray[np.float32]
State = list[tuple[Array, Array]]
"""Of each layer the hidden and the cell state, shape (hidden,) each."""


class LSTM:
    """The weights, and one step forward."""

    def __init__(self, vocabulary: Vocabulary, weights: dict[str, Array]) -> None:
        self.vocabulary = vocabulary
        self._embedding = weights["embedding.weight"]
        count = sum(name.startswith("lstm.weight_ih") for name in weights)
        self._layers = [
            (
                np.concatenate([weights[f"lstm.weight_ih_l{n}"], weights[f"lstm.weight_hh_l{n}"]], axis=1),
                weights[f"lstm.bias_ih_l{n}"] + weights[f"lstm.bias_hh_l{n}"],
            )
            for n in range(count)
        ]
        self._head = weights["softmax.head.weight"]
        tails = sum(name.startswith("softmax.tail.") for name in weights) // 2
        self._tails = [(weights[f"softmax.tail.{n}.0.weight"], weights[f"softmax.tail.{n}.1.weight"]) for n in range(tails)]

    def initial_state(self) -> State:
        """Zeros: the state before the first word of a text."""
        hidden = self._layers[0][1].shape[0] // 4
        return [(np.zeros(hidden, np.float32), np.zeros(hidden, np.float32)) for _ in self._layers]

    def step(self, id: int, state: State) -> tuple[Array, State]:
        """Read one word; returns the top layer's output, shape (hidden,), and the new state."""
        x, new = self._embedding[id], []
        for (weight, bias), (hidden, cell) in zip(self._layers, state, strict=True):
            i, f, g, o = np.split(weight @ np.concatenate([x, hidden]) + bias, 4)
            cell = _sigmoid(f) * cell + _sigmoid(i) * np.tanh(g)
            x = _sigmoid(o) * np.tanh(cell)
            new.append((x, cell))
        return x, new

    def logprobs(self, output: Array) -> NDArray[np.float64]:
        """Log P of every word as the next, shape (V,), from the output of `step`."""
        head = log_softmax(self._head @ output)
        shortlist = len(head) - len(self._tails)
        tails = [head[shortlist + n] + log_softmax(outer @ (inner @ output)) for n, (inner, outer) in enumerate(self._tails)]
        return np.concatenate([head[:shortlist], *tails])

    def stream(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        """Continue `prompt`: see `TextModel.stream`. A word that was never seen is read as unknown; always yields `params.length`
        words unless a stop string ends the text: boundaries and unknown words are never generated.
        """
        return until_stop(join(prompt, self._walk(prompt.rstrip(" "), params)), params.stop)

    async def _walk(self, prompt: str, params: SamplingParams) -> AsyncGenerator[Token]:
        generator = np.random.default_rng(params.seed)
        state = self.initial_state()
        for id in [BOUNDARY, *self.vocabulary.encode(tokenize(prompt))]:
            output, state = self.step(id, state)
            await asyncio.sleep(0)  # one word at a time, so that no request holds up another
        for step in range(1, params.length + 1):
            logprobs = self.logprobs(output)
            logprobs[[BOUNDARY, UNKNOWN]] = -np.inf
            logprobs = log_softmax(logprobs)
            id = sample(logprobs, params, generator)
            yield Token(self.vocabulary.word(id), float(logprobs[id]), "length" if step == params.length else None)
            output, state = self.step(id, state)
            await asyncio.sleep(0)

    @classmethod
    def load(cls, directory: Path) -> Self:
        """Read `lstm.safetensors` and `vocabulary.json`."""
        return cls(Vocabulary.load(directory / "vocabulary.json"), load_file(directory / "lstm.safetensors"))


def _sigmoid(x: Array) -> Array:
    # By tanh, which does not overflow.
    result: Array = 0.5 * (1 + np.tanh(0.5 * x))
    return result
