"""The LSTM's forward pass for several texts at once, with int8 weights: OpenVINO graphs of fixed shapes.

`models/rnn.py` describes the model, and is the reference in fp32. Here each matrix has int8 weights, with one scale for each row. Before a
product, OpenVINO quantizes the activations of each text to int8 as well.

A text must not depend on the texts that share its batch. Products of different shapes may be rounded differently, so texts are computed in
blocks of fixed shapes, and only if a block computes the same bits for a text as the graphs for a single text do.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


REQUESTS_PER_STREAM = 2
"""Blocks in flight for each stream: one is computed while another one waits, so that the stream never does."""
PROPERTIES: dict[str, Any] = {
    "INFERENCE_PRECISION_HINT": "f32",  # of everything but the products
    "ENABLE_CPU_PINNING": False,  # the cores are shared with the service and the LLM
}


@dataclass(frozen=True)
class Distributions:
    """What the next word of each text of a block is drawn from, for n texts. The boundary and the unknown word are left out."""

    weights: Array
    """The weight of each word after temperature: 1 for the most probable one. Shape (n, columns): column i belongs to the word with
    id `FIRST_WORD + i`, and columns of weight 0 fill the last group of `SUM_WIDTH`."""
    sums: Array
    """The sum of each group of `SUM_WIDTH` weights, shape (n, columns / SUM_WIDTH)."""
    totals: Array
    """The sum of the weights without temperature, shape (n,)."""


class BatchedLSTM:
    """Computes any number of texts in blocks. Only one thread may call it."""

    def __init__(self, weights: Mapping[str, Array], streams: int = 1) -> None:
        """Compile the graphs. `streams` blocks are computed at the same time, on one core each."""
        bands = sum(name.endswith(".projection") for name in weights)
        head = weights["words.head"]
        self.width = head.shape[1]
        rare = [weights[f"words.bands.{n}.words"] @ weights[f"words.bands.{n}.projection"] for n in range(bands)]
        self._embeddings = np.concatenate([head[: len(head) - bands], *rare])
        self.state_width = 2 * self.width * sum(name.endswith("weight_ih_l0") for name in weights)
        """The size of a text's state: the hidden and the cell state of each layer, beginning with the first layer's hidden state."""
        narrow = (weights[f"words.bands.{n}.words"].shape[1] for n in range(bands))
        properties = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": math.gcd(self.width, *narrow)}  # must divide the width of each product
        core = ov.Core()

        def requests(build: Callable[[Mapping[str, Array], int], ov.Model], size: int, streams: int) -> list[ov.InferRequest]:
            compiled = core.compile_model(build(weights, size), "CPU", PROPERTIES | properties | _streams(streams))
            return [compiled.create_infer_request() for _ in range(1 if streams == 1 else REQUESTS_PER_STREAM * streams)]

        # With one stream, a request runs in the calling thread. A thread of OpenVINO takes longer to wake than a small block to compute.
        self._text = {build: requests(build, 1, 1) for build in (_read_graph, _distributions_graph, _logprobs_graph)}
        self._block = {build: requests(build, BLOCK_TEXTS, 1) for build in (_read_graph, _distributions_graph)}
        self._blocks = {build: requests(build, BLOCK_TEXTS, streams) for build in self._block} if streams > 1 else self._block
        self.blocks_agree = all(self._agrees(graphs) for graphs in (self._block, self._blocks))
        """Whether blocks compute the same bits for a text as the graphs for a single text. If not, texts are computed one by one."""

    def initial_state(self) -> Array:
        """Return the state before the first word of a text, shape (state_width,)."""
        return np.zeros(self.state_width, np.float32)

    def read(self, ids: NDArray[np.int64], states: Array) -> Array:
        """Read one word of each text. Takes word ids, shape (n,), and states, shape (n, state_width). Returns the new states."""
        return np.concatenate([new_states.copy() for (new_states,) in self._run(_read_graph, self._embeddings[ids], states)])

    def distributions(self, states: Array, temperatures: Array) -> Iterator[Distributions]:
        """Yield the distributions of the next words, block by block, and compute further blocks meanwhile.

        Takes states, shape (n, state_width), and temperatures, shape (n,). A block's arrays are overwritten when the next one is asked for.
        """
        for weights, sums, totals in self._run(_distributions_graph, self._outputs(states), np.reciprocal(temperatures)[:, None]):
            yield Distributions(weights, sums, totals[:, 0])

    def logprobs(self, state: Array) -> Array:
        """Return the log-probability of every word as the next one of a text, shape (V,). Takes its state, shape (state_width,)."""
        ((logprobs,),) = self._run(_logprobs_graph, self._outputs(state[None]))
        result: Array = logprobs[0].copy()
        return result

    def _outputs(self, states: Array) -> Array:
        """Return the last layer's hidden states, shape (n, width)."""
        return states[:, -2 * self.width : -self.width]

    def _run(self, build: Callable[..., ov.Model], *inputs: Array) -> Iterator[list[Array]]:
        """Run a graph on arrays with one row for each text, in blocks. Yields the outputs of each block."""
        texts = len(inputs[0])
        if texts == 1 or not self.blocks_agree:
            return _run_blocks(self._text[build], 1, inputs)
        return _run_blocks((self._block if texts <= BLOCK_TEXTS else self._blocks)[build], BLOCK_TEXTS, inputs)

    def _agrees(self, block: Mapping[Callable[..., ov.Model], list[ov.InferRequest]]) -> bool:
        """Whether graphs compute the same bits for a text as the graphs for a single text, wherever the text stands in the block."""
        generator, size = np.random.default_rng(0), BLOCK_TEXTS
        states = generator.uniform(-1, 1, (size, self.state_width)).astype(np.float32)
        temperatures = generator.uniform(0.5, 2, (size, 1)).astype(np.float32)
        inputs = {
            _read_graph: (self._embeddings[generator.integers(len(self._embeddings), size=size)], states),
            _distributions_graph: (self._outputs(states), temperatures),
        }
        for build, arrays in inputs.items():
            alone = [[output.copy() for output in outputs] for outputs in _run_blocks(self._text[build], 1, arrays)]
            expected = [np.concatenate(parts) for parts in zip(*alone, strict=True)]
            for shift in range(size):
                shifted = tuple(np.roll(array, shift, axis=0) for array in arrays)
                (outputs,) = _run_blocks(block[build], size, shifted)
                if not all(np.array_equal(np.roll(each, shift, axis=0), output) for each, output in zip(expected, outputs, strict=True)):
                    return False
        return True


def _streams(streams: int) -> dict[str, Any]:
    return {"NUM_STREAMS": streams, "INFERENCE_NUM_THREADS": streams}


def _run_blocks(requests: Sequence[ov.InferRequest], size: int, inputs: Sequence[Array]) -> Iterator[list[Array]]:
    """Run blocks of `size` rows of the inputs with as many requests in flight as there are; the last block's unused rows are zero.

    Yields each block's outputs, which are overwritten when the next ones are asked for.
    """
    blocks = [[array[first : first + size] for array in inputs] for first in range(0, len(inputs[0]), size)]
    started = 0
    for number, block in enumerate(blocks):
        while started < min(len(blocks), number + len(requests)):
            request = requests[started % len(requests)]
            for index, rows in enumerate(blocks[started]):
                tensor = request.get_input_tensor(index).data
                tensor[: len(rows)], tensor[len(rows) :] = rows, 0
            if len(requests) > 1:
                request.start_async()
            else:
                request.infer()
            started += 1
        request = requests[number % len(requests)]
        request.wait()
        yield [tensor.data[: len(block[0])] for tensor in request.output_tensors]


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
