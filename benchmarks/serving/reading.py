"""Profile how the CPU engine reads a prompt: the time of each kind of operation, for the ways to multiply int8 weights.

    python -m benchmarks.serving.reading --artifact runs/…/llm

openvino-genai does not show its compiled model, so the same graph is compiled here: with paged attention, and with logits of the last
token alone. Each row of the table is one way of multiplying, each column a kind of operation, in milliseconds for one prompt.
"""

import argparse
import statistics
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import openvino as ov
from openvino import opset13 as ops
from openvino._offline_transformations import paged_attention_transformation

from models.engines.openvino.pipeline import BLOCK_TOKENS, activation_group_size
from models.engines.openvino.row_quantization import SAMPLED_TOKENS, quantize_rows

KINDS = {"FullyConnected": "products", "PagedAttention": "attention"}
"""The columns, by the beginning of OpenVINO's name of an operation; all others are element-wise or copy."""
WARM_UP, REPETITIONS = 3, 10


def compile_model(artifact: Path, rows: bool, precision: str, groups: int) -> ov.CompiledModel:
    """Compile the graph as openvino-genai does, with int8 rows (`quantize_rows`) or with OpenVINO's own `groups` of int8 activations."""
    core = ov.Core()
    model = core.read_model(artifact / "openvino/openvino_model.xml")
    if rows and not quantize_rows(model):
        raise SystemExit("This artifact has no symmetric int8 weights, as those of older versions. Train the model anew.")
    paged_attention_transformation(model)
    if not rows:
        _gather_last(model)
    properties = {"PERF_COUNT": "YES", "INFERENCE_PRECISION_HINT": precision, "DYNAMIC_QUANTIZATION_GROUP_SIZE": str(groups)}
    return core.compile_model(model, "CPU", properties)


def _gather_last(model: ov.Model) -> None:
    """Compute logits for the sampled tokens only, as openvino-genai does."""
    head = model.outputs[0].get_node().input_value(0).get_node()
    positions = ops.parameter([-1], ov.Type.i64, name=SAMPLED_TOKENS)
    positions.output(0).get_tensor().add_names({SAMPLED_TOKENS})
    head.input(0).replace_source_output(ops.gather(head.input_value(0), positions, np.int64(0)).output(0))
    model.add_parameters([positions])
    model.validate_nodes_and_infer_types()


def read_prompts(model: ov.CompiledModel, tokens: int, prompts: int) -> dict[str, float]:
    """Read `prompts` prompts of `tokens` tokens in one step. Returns the milliseconds in all and for each kind, medians and means."""
    request = model.create_infer_request()
    blocks = -(-tokens // BLOCK_TOKENS)
    inputs: dict[str, Any] = {
        "input_ids": np.random.default_rng(0).integers(1, 1000, tokens * prompts),
        "position_ids": np.tile(np.arange(tokens), prompts),
        "past_lens": np.zeros(prompts, np.int32),
        "subsequence_begins": np.arange(prompts + 1, dtype=np.int32) * tokens,
        "block_indices": np.arange(prompts * blocks, dtype=np.int32),
        "block_indices_begins": np.arange(prompts + 1, dtype=np.int32) * blocks,
        "max_context_len": np.array(tokens, np.int32),
        SAMPLED_TOKENS: np.arange(1, prompts + 1) * tokens - 1,
    }
    for port in model.inputs:
        name = port.get_any_name()
        if name in inputs:
            request.set_tensor(name, ov.Tensor(inputs[name]))
        else:  # a key or value cache
            _, *rest = port.get_partial_shape()
            request.set_tensor(name, ov.Tensor(port.get_element_type(), [prompts * blocks, *(size.get_length() for size in rest)]))
    for _ in range(WARM_UP):
        request.infer()
    totals, kinds = [], Counter[str]()
    for _ in range(REPETITIONS):
        started = time.perf_counter()
        request.infer()
        totals.append(1000 * (time.perf_counter() - started))
        for operation in request.profiling_info:
            kind = next((kind for start, kind in KINDS.items() if operation.node_type.startswith(start)), "other")
            kinds[kind] += 1000 * operation.real_time.total_seconds() / REPETITIONS
    return {"in all": statistics.median(totals), **kinds}


def main() -> None:
    """Print a table with a row for each way of multiplying."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="the directory of an LLM with int8 weights")
    parser.add_argument("--tokens", type=int, default=220, help="the length of a prompt (default: 220)")
    parser.add_argument("--prompts", type=int, nargs="*", default=[1, 4], help="the numbers of prompts in a step (default: 1 4)")
    arguments = parser.parse_args()
    if not (arguments.artifact / "openvino").is_dir():
        parser.error(f"{arguments.artifact} is no artifact of an LLM: it has no directory openvino/")
    groups = activation_group_size(arguments.artifact)
    ways = {
        "bf16": (False, "bf16", 0),
        "f32, OpenVINO's int8 activations": (False, "f32", groups),
        "f32, int8 rows": (True, "f32", groups),
    }
    print("| | prompts in a step | ms in all | products | attention | other |\n|---|---|---|---|---|---|")
    for name, way in ways.items():
        for prompts in arguments.prompts:
            model = compile_model(arguments.artifact, *way)  # anew, because OpenVINO's times are means over all that a model has run
            measured = read_prompts(model, arguments.tokens, prompts)
            cells = " | ".join(f"{measured[kind]:.1f}" for kind in ("in all", *KINDS.values(), "other"))
            print(f"| {name} | {prompts} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
