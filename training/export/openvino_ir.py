"""Convert a Hugging Face directory to the stateful OpenVINO IR that openvino-genai's continuous batching runs.

The traced graph takes the key-value cache as plain inputs and returns it as plain outputs. A gather by `beam_idx` is put in to reorder
the cache's rows, and then the cache becomes state. Its initial value has the batch's size, as continuous batching requires.
"""

import logging
import os
import shutil
import warnings
from pathlib import Path
from typing import Literal

import numpy as np
import openvino as ov
import torch
from openvino import opset13 as ops
from openvino._offline_transformations import apply_make_stateful_transformation
from transformers import AutoModelForCausalLM, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.utils import logging as transformers_logging

Weights = Literal["int4", "int8", "fp16", "fp32"]


class _ForwardPass(torch.nn.Module):
    """One forward pass with the cache as plain tensors: layer by layer, the key and then the value."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor, position_ids: torch.Tensor, *past: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        cache = DynamicCache()
        for key, value in zip(past[::2], past[1::2], strict=True):
            layer = DynamicLayer()
            layer.lazy_initialization(key, value)
            layer.keys, layer.values = key, value
            cache.layers.append(layer)
        out = self.model(
            input_ids=input_ids, attention_mask=attention_mask, position_ids=position_ids, past_key_values=cache, use_cache=True
        )
        return (out.logits, *(part for layer in out.past_key_values.layers for part in (layer.keys, layer.values)))


def export_openvino(source: Path, target: Path, weights: Weights = "int8") -> None:
    """Write the IR of the model in `source` as `target/openvino_model.xml`, with the two JSON files that openvino-genai reads.

    int8 weights are asymmetric, per output channel. fp16 weights are the model's own, rounded. int4 (in groups of 64, with the head in
    int8) and fp32 are for comparison.
    """
    # NNCF and OpenVINO would report the export to Intel, some fifty times, each time from a fork of this process. They do not in CI, which
    # this variable stands for; NNCF reads it when it is imported.
    os.environ.setdefault("TF_BUILD", "True")
    import nncf

    nncf.set_log_level(logging.WARNING)  # otherwise it prints a table
    target.mkdir(parents=True, exist_ok=True)
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    shapes = _cache_shapes(model)
    ir = _stateful(_trace(model, shapes), shapes)
    if weights == "int8":
        ir = nncf.compress_weights(ir, mode=nncf.CompressWeightsMode.INT8_SYM)
    elif weights == "int4":
        ir = nncf.compress_weights(ir, mode=nncf.CompressWeightsMode.INT4_ASYM, group_size=64)
    ov.save_model(ir, target / "openvino_model.xml", compress_to_fp16=weights != "fp32")
    for name in ("config.json", "generation_config.json"):
        shutil.copy(source / name, target)


def _cache_shapes(model: PreTrainedModel) -> list[tuple[int, int]]:
    """Return each layer's number of key-value heads and the size of a head, read off a cache: each configuration names them otherwise."""
    with torch.no_grad():
        cache = model(input_ids=torch.zeros(1, 1, dtype=torch.long), use_cache=True).past_key_values
    return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in cache.layers]


def _trace(model: PreTrainedModel, shapes: list[tuple[int, int]]) -> ov.Model:
    batch, new, past = 2, 3, 5  # distinct, so that tracing does not confuse one size with another
    example = (
        torch.ones(batch, new, dtype=torch.long),
        torch.ones(batch, past + new, dtype=torch.long),
        torch.arange(past, past + new).expand(batch, new).contiguous(),
        *(torch.randn(batch, kv_heads, past, head_size) for kv_heads, head_size in shapes for _ in ("key", "value")),
    )
    verbosity = transformers_logging.get_verbosity()
    # The tracer reads every property of the model. Deprecated ones warn through transformers' logging and as FutureWarning.
    transformers_logging.set_verbosity_error()
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            warnings.simplefilter("ignore", torch.jit._trace.TracerWarning)  # the branches of the mask's code do not depend on the sizes
            warnings.simplefilter("ignore", DeprecationWarning)  # openvino 2026.4 traces with torch.jit, which is deprecated
            return ov.convert_model(_ForwardPass(model), example_input=example)
    finally:
        transformers_logging.set_verbosity(verbosity)


def _stateful(ir: ov.Model, shapes: list[tuple[int, int]]) -> ov.Model:
    """Name the inputs and outputs of `ir`, and turn the cache from inputs and outputs into state. Changes `ir` and returns it."""
    cache_in = [f"past_key_values.{n}.{part}" for n in range(len(shapes)) for part in ("key", "value")]
    cache_out = [f"present.{n}.{part}" for n in range(len(shapes)) for part in ("key", "value")]
    cache_sizes = {name: shapes[n // 2] for n, name in enumerate(cache_in)}
    for port, name in zip(ir.inputs, ["input_ids", "attention_mask", "position_ids", *cache_in], strict=True):
        port.get_tensor().set_names({name})
        node = port.get_node()
        node.set_friendly_name(name)
        kv_heads, head_size = cache_sizes.get(name, (0, 0))
        node.set_partial_shape(ov.PartialShape([-1, kv_heads, -1, head_size] if name in cache_sizes else [-1, -1]))
    for port, name in zip(ir.outputs, ["logits", *cache_out], strict=True):
        port.get_tensor().set_names({name})
    ir.validate_nodes_and_infer_types()

    beam = ops.parameter([-1], ov.Type.i32, name="beam_idx")
    beam.output(0).get_tensor().add_names({"beam_idx"})
    ir.add_parameters([beam])
    for port in ir.inputs:
        if port.get_any_name() in cache_sizes:
            consumers = port.get_target_inputs()
            reordered = ops.gather(port.get_node(), beam, ops.constant(0))
            for consumer in consumers:
                consumer.replace_source_output(reordered.output(0))
    ir.validate_nodes_and_infer_types()
    apply_make_stateful_transformation(ir, dict(zip(cache_in, cache_out, strict=True)))

    # The initial cache has as many rows as `input_ids`, and no tokens.
    rows = ops.gather(ops.shape_of(ir.input("input_ids"), output_type="i64"), ops.constant([0]), ops.constant(0))
    for node in ir.get_ops():
        if node.get_type_name() == "ReadValue":
            rest = list(node.get_output_partial_shape(0))[1:]
            sizes = [ops.constant([size.get_length() if size.is_static else 0], dtype=np.int64) for size in rest]
            zero = ops.constant(0.0, dtype=node.get_output_element_type(0).to_dtype())
            node.set_arguments([ops.broadcast(zero, ops.concat([rows, *sizes], axis=0))])
    ir.validate_nodes_and_infer_types()
    return ir
