"""Products of int8 rows and int8 weights, for processors with AMX.

On such a processor, OpenVINO 2026.4 widens int8 weights to bf16 for each product, and its own dynamic quantization of activations has no
kernel for AMX. But it has one for a FakeQuantize with a constant range. So each row of activations is divided by its largest magnitude,
which leaves numbers from -1 to 1, and the row of the product is multiplied by it: dynamic quantization, one scale for each token. This
reads a prompt twice as fast as bf16 (docs/benchmarks.md, "Reading passages").
"""

from pathlib import Path

import numpy as np
import openvino as ov
from numpy.typing import NDArray
from openvino import Node, Output
from openvino import opset13 as ops

SAMPLED_TOKENS = "sampled_tokens_indices"
"""openvino-genai's name for the input with the positions of which it wants logits. It adds the input to a model that ends in a product, and
uses it in one that has it."""
SMALLEST = np.float32(1e-6)
"""A row of zeros is divided by this."""


def has_amx(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return whether the processor multiplies int8 matrices with AMX."""
    try:
        return "amx_int8" in cpuinfo.read_text()
    except OSError:  # not Linux
        return False


def quantize_rows(model: ov.Model) -> int:
    """Quantize the left side of each product whose weights are symmetric int8, in place. Returns the number of products."""
    quantized: dict[tuple[str, int], tuple[Output, Output]] = {}
    """By the name of a node and the index of its output: several products may have the same left side."""
    count = 0
    for product in model.get_ordered_ops():
        if product.get_type_name() != "MatMul":
            continue
        weights = _int8_weights(product.input_value(1).get_node(), product.get_attributes()["transpose_b"])
        if weights is None:
            continue
        is_head = any(target.get_node().get_type_name() == "Result" for target in product.output(0).get_target_inputs())
        rows = _sampled(model, product.input_value(0)) if is_head else product.input_value(0)
        key = rows.get_node().get_name(), rows.get_index()
        if key not in quantized:
            quantized[key] = _quantized(rows)
        values, magnitudes = quantized[key]
        result = ops.multiply(ops.matmul(values, weights, False, True), magnitudes)
        product.output(0).replace(result.output(0))
        count += 1
    model.validate_nodes_and_infer_types()
    return count


def _int8_weights(node: Node, transposed: bool) -> Node | None:
    """Return weights of shape (outputs, inputs) in the form that OpenVINO recognizes; None if they are not symmetric int8."""
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    if node.get_type_name() != "Multiply":
        return None
    values, scales = (_constant(node.input_value(index).get_node()) for index in range(2))
    if values is None or scales is None or values.dtype != np.int8:
        return None
    if not transposed:
        values, scales = np.ascontiguousarray(values.T), scales.T
    return ops.multiply(ops.convert(ops.constant(values), "f32"), ops.constant(scales.astype(np.float32)))


def _constant(node: Node) -> NDArray[np.generic] | None:
    while node.get_type_name() == "Convert":
        node = node.input_value(0).get_node()
    return node.get_data() if node.get_type_name() == "Constant" else None


def _sampled(model: ov.Model, hidden: Output) -> Output:
    """Return the rows of `hidden`, shape (batch, tokens, width), that are sampled from: shape (positions, 1, width)."""
    positions = ops.parameter([-1], ov.Type.i64, name=SAMPLED_TOKENS)
    positions.output(0).get_tensor().add_names({SAMPLED_TOKENS})
    model.add_parameters([positions])
    width = hidden.get_partial_shape()[2].get_length()
    flat = ops.reshape(hidden, ops.constant(np.array([-1, width], np.int64)), special_zero=False)
    return ops.unsqueeze(ops.gather(flat, positions, np.int64(0)), np.int64(1)).output(0)


def _quantized(rows: Output) -> tuple[Output, Output]:
    """Return rows of int8 numbers, as a FakeQuantize of numbers from -1 to 1, and the largest magnitude of each row."""
    last = np.array([-1], np.int64)
    highest, lowest = ops.reduce_max(rows, last, keep_dims=True), ops.reduce_min(rows, last, keep_dims=True)
    magnitudes = ops.maximum(ops.maximum(highest, ops.negative(lowest)), SMALLEST)
    low, high = np.float32(-1), np.float32(1)
    quantized = ops.fake_quantize(ops.divide(rows, magnitudes), low, high, low, high, levels=255)
    return quantized.output(0), magnitudes.output(0)
