"""The LSTM's forward pass for several texts at once, with int8 weights: OpenVINO graphs of fixed shapes.

`models/rnn.py` describes the model, and is the reference in fp32. Here each matrix has int8 weights, with one scale for each row. Before a
product, OpenVINO quantizes the activations of each text to int8 as well.

A text must not depend on the texts that share its batch. Products of different shapes may be rounded differently, so texts are computed in
blocks of fixed shapes. Only shapes are used that compute the same bits for a text, wherever it stands in the block.
"""

import itertools
import math
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import opset13 as op

from models.words import BOUNDARY, UNKNOWN

Array = NDArray[np.float32]

BLOCK_TEXTS = 8
"""Texts in a block. A larger block is hardly faster for each text: 8 texts already fill the processor's int8 units."""
SUM_WIDTH = 128
"""Words whose weights are added up in the graph, so that a draw searches a few hundred sums first and then as many words."""
FIRST_WORD = max(BOUNDARY, UNKNOWN) + 1
"""The id of the first word that may be generated: it has column 0 in `Distributions.weights`."""


@dataclass(frozen=True)
class Distributions:
    """What the next word is drawn from, for n texts. The boundary and the unknown word are left out."""

    weights: Array
    """The weight of each word after temperature: 1 for the most probable one. Shape (n, columns): column i belongs to the word with
    id `FIRST_WORD + i`, and columns of weight 0 fill the last group of `SUM_WIDTH`."""
    sums: Array
    """The sum of each group of `SUM_WIDTH` weights, shape (n, columns / SUM_WIDTH)."""
    totals: Array
    """The sum of the weights without temperature, shape (n,)."""


class Layer(NamedTuple):
    """An LSTM layer: weights of the input and of the hidden state side by side, shape (4 · width, 2 · width), and biases."""

    weights: Array
    bias: Array


class BatchedLSTM:
    """Computes up to `BLOCK_TEXTS` texts in one call. Any number of threads may call at the same time."""

    def __init__(self, weights: Mapping[str, Array], streams: int = 1) -> None:
        """Compile the graphs. `streams` is the number of calls that may be computed at the same time, by one thread each."""
        bands = sum(name.endswith(".projection") for name in weights)
        head = weights["words.head"]
        self.width = head.shape[1]
        self._embeddings = np.concatenate(
            [
                head[: len(head) - bands],
                *(weights[f"words.bands.{n}.words"] @ weights[f"words.bands.{n}.projection"] for n in range(bands)),
            ]
        )
        layers = sum(name.endswith("weight_ih_l0") for name in weights)
        self.state_width = 2 * layers * self.width
        """The size of a text's state: the hidden and the cell state of each layer, beginning with the first layer's hidden state."""
        narrow = (weights[f"words.bands.{n}.words"].shape[1] for n in range(bands))
        properties: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": "f32",  # activations between the products
            "DYNAMIC_QUANTIZATION_GROUP_SIZE": math.gcd(self.width, *narrow),  # must divide the width of each product
            "NUM_STREAMS": streams,
            "INFERENCE_NUM_THREADS": streams,
        }
        core = ov.Core()
        self._graphs = [
            {
                build.__name__: core.compile_model(build(weights, size), "CPU", properties)
                for build in (_read_graph, _distributions_graph, _logprobs_graph)
            }
            for size in (1, BLOCK_TEXTS)
        ]
        self._requests = threading.local()
        self._single_texts = not self._blocks_agree()

    def initial_state(self) -> Array:
        """Return the state before the first word of a text, shape (state_width,)."""
        return np.zeros(self.state_width, np.float32)

    def read(self, ids: NDArray[np.int64], states: Array) -> Array:
        """Read one word of each text. Takes word ids, shape (n,), and states, shape (n, state_width). Returns the new states."""
        (new_states,) = self._run("_read_graph", self._embeddings[ids], states)
        return new_states

    def distributions(self, states: Array, temperatures: Array) -> Distributions:
        """Return the distributions of the next words. Takes states, shape (n, state_width), and temperatures, shape (n,)."""
        weights, sums, totals = self._run("_distributions_graph", self._outputs(states), np.reciprocal(temperatures)[:, None])
        return Distributions(weights, sums, totals[:, 0])

    def logprobs(self, states: Array) -> Array:
        """Return the log-probability of every word as the next one, shape (n, V)."""
        (logprobs,) = self._run("_logprobs_graph", self._outputs(states))
        return logprobs

    def _outputs(self, states: Array) -> Array:
        """Return the last layer's hidden states, shape (n, width)."""
        return states[:, -2 * self.width : -self.width]

    def _run(self, name: str, *inputs: Array) -> list[Array]:
        """Run a graph on arrays with one row for each of up to `BLOCK_TEXTS` texts. Returns its outputs for these texts."""
        texts = len(inputs[0])
        if texts > 1 and self._single_texts:
            rows = [self._run(name, *(each[row : row + 1] for each in inputs)) for row in range(texts)]
            return [np.concatenate(parts) for parts in zip(*rows, strict=True)]
        return self._run_shape(name, int(texts > 1), *inputs)

    def _run_shape(self, name: str, shape: int, *inputs: Array) -> list[Array]:
        """Run a graph of one of the shapes; the block's unused rows are zero."""
        compiled, texts = self._graphs[shape][name], len(inputs[0])
        requests: dict[Any, ov.InferRequest] = self._requests.__dict__  # this thread's
        request = requests.get((name, shape)) or requests.setdefault((name, shape), compiled.create_infer_request())
        for index, value in enumerate(inputs):
            tensor = request.get_input_tensor(index).data
            tensor[:texts], tensor[texts:] = value, 0
        request.infer()
        # Copies: the next call overwrites the tensors.
        return [request.get_output_tensor(index).data[:texts].copy() for index in range(len(compiled.outputs))]

    def _blocks_agree(self) -> bool:
        """Whether a block computes the same bits for each text as the graphs for a single text, wherever the text stands."""
        generator, size = np.random.default_rng(0), BLOCK_TEXTS
        states = generator.uniform(-1, 1, (size, self.state_width)).astype(np.float32)
        inputs = {
            "_read_graph": [self._embeddings[generator.integers(len(self._embeddings), size=size)], states],
            "_distributions_graph": [self._outputs(states), generator.uniform(0.5, 2, (size, 1)).astype(np.float32)],
            "_logprobs_graph": [self._outputs(states)],
        }
        for (name, arrays), shift in itertools.product(inputs.items(), range(size)):
            shifted = [np.roll(array, shift, axis=0) for array in arrays]
            block = self._run_shape(name, 1, *shifted)
            alone = self._run_shape(name, 0, *(array[shift : shift + 1] for array in shifted))
            if not all(np.array_equal(one[0], many[shift]) for one, many in zip(alone, block, strict=True)):
                return False
            if not shift:
                unshifted = block
            if not all(np.array_equal(np.roll(many, -shift, axis=0), first) for many, first in zip(block, unshifted, strict=True)):
                return False
        return True


def _read_graph(weights: Mapping[str, Array], size: int) -> ov.Model:
    """Build the layers. Inputs: word vectors, shape (size, width), and states. Output: the new states."""
    width, layers = weights["words.head"].shape[1], sum(name.endswith("weight_ih_l0") for name in weights)
    vectors, states = op.parameter([size, width], np.float32), op.parameter([size, 2 * layers * width], np.float32)
    old = op.split(states, op.constant(1), 2 * layers).outputs()
    x, new = vectors, []
    for n in range(layers):
        hidden, cell = old[2 * n : 2 * n + 2]
        matrix = np.concatenate([weights[f"layers.{n}.weight_ih_l0"], weights[f"layers.{n}.weight_hh_l0"]], axis=1)
        bias = weights[f"layers.{n}.bias_ih_l0"] + weights[f"layers.{n}.bias_hh_l0"]
        gates = op.add(_linear(op.concat([x, hidden], 1), matrix), op.constant(bias[None]))
        i, f, g, o = op.split(gates, op.constant(1), 4).outputs()
        cell = op.add(op.multiply(op.sigmoid(f), cell), op.multiply(op.sigmoid(i), op.tanh(g)))
        x = op.multiply(op.sigmoid(o), op.tanh(cell))
        new += [x, cell]
    return ov.Model([op.concat(new, 1)], [vectors, states], "read")


def _logits(weights: Mapping[str, Array], outputs: ov.Node) -> tuple[ov.Node, list[tuple[ov.Node, ov.Node]]]:
    """Return the logits of the shortlist followed by those of the bands, and of each band: its words' logits less the largest of them, and
    the logarithm of the sum of their exponentials.
    """
    head = op.add(_linear(outputs, weights["words.head"]), op.constant(weights["words.bias"][None]))
    bands = []
    for n in range(sum(name.endswith(".projection") for name in weights)):
        logits = _linear(_linear(outputs, weights[f"words.bands.{n}.projection"]), weights[f"words.bands.{n}.words"])
        shifted = op.subtract(logits, _largest(logits))
        bands.append((shifted, op.log(_total(op.exp(shifted)))))
    return head, bands


def _distributions_graph(weights: Mapping[str, Array], size: int) -> ov.Model:
    """Build the output layer. Inputs: the last layer's outputs, shape (size, width), and inverse temperatures, shape (size, 1).
    Outputs: the fields of `Distributions`.
    """
    outputs, inverse = op.parameter([size, weights["words.head"].shape[1]], np.float32), op.parameter([size, 1], np.float32)
    head, bands = _logits(weights, outputs)
    shortlist = len(weights["words.head"]) - len(bands)
    pieces = [_columns(head, FIRST_WORD, shortlist)]
    best = _largest(pieces[0])
    for n, (shifted, log_total) in enumerate(bands):
        largest = op.subtract(_columns(head, shortlist + n, shortlist + n + 1), log_total)  # of the band's words
        best = op.maximum(best, largest)
        pieces.append(op.add(shifted, largest))
    columns = [op.exp(op.multiply(op.subtract(piece, best), inverse)) for piece in pieces]
    count = sum(piece.shape[1] for piece in pieces)
    if padding := -count % SUM_WIDTH:
        columns.append(op.constant(np.zeros((size, padding), np.float32)))
    result = op.concat(columns, 1)
    groups = op.reshape(result, op.constant([size, (count + padding) // SUM_WIDTH, SUM_WIDTH]), False)
    sums = op.reduce_sum(groups, op.constant([2]), False)
    totals = _total(op.exp(op.subtract(_columns(head, FIRST_WORD, shortlist + len(bands)), best)))
    return ov.Model([result, sums, totals], [outputs, inverse], "distributions")


def _logprobs_graph(weights: Mapping[str, Array], size: int) -> ov.Model:
    """Build the output layer with log-probabilities, shape (size, V), as its output. Input: the last layer's outputs."""
    outputs = op.parameter([size, weights["words.head"].shape[1]], np.float32)
    head, bands = _logits(weights, outputs)
    shortlist = len(weights["words.head"]) - len(bands)
    shifted = op.subtract(head, _largest(head))
    head = op.subtract(shifted, op.log(_total(op.exp(shifted))))
    pieces = [_columns(head, 0, shortlist)]
    for n, (shifted, log_total) in enumerate(bands):
        pieces.append(op.add(shifted, op.subtract(_columns(head, shortlist + n, shortlist + n + 1), log_total)))
    return ov.Model([op.concat(pieces, 1)], [outputs], "logprobs")


def _linear(x: ov.Node, matrix: Array) -> ov.Node:
    """Multiply by a matrix, shape (outputs, inputs), in int8: OpenVINO recognizes this pattern as compressed weights."""
    scale = np.maximum(np.abs(matrix).max(axis=1, keepdims=True), np.finfo(np.float32).tiny) / 127
    quantized = op.constant(np.round(matrix / scale).astype(np.int8))
    return op.matmul(x, op.multiply(op.convert(quantized, np.float32), op.constant(scale.astype(np.float32))), False, True)


def _largest(x: ov.Node) -> ov.Node:
    return op.reduce_max(x, op.constant([1]), True)


def _total(x: ov.Node) -> ov.Node:
    return op.reduce_sum(x, op.constant([1]), True)


def _columns(x: ov.Node, start: int, end: int) -> ov.Node:
    return op.slice(x, op.constant([start]), op.constant([end]), op.constant([1]), op.constant([1]))
