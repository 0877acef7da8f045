"""openvino-genai's pipelines for an artifact, with the settings of the CPU engine."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import openvino as ov
import openvino_genai as genai

from models.engines.openvino import OpenVINOConfig
from models.engines.openvino.row_quantization import has_amx, quantize_rows
from models.engines.tokenization import ModelLimits

BLOCK_TOKENS = 32
"""Tokens in a block of the key-value cache of OpenVINO's CPU plugin."""


def load_pipelines(directory: Path, config: OpenVINOConfig) -> list[genai.ContinuousBatchingPipeline]:
    """Load openvino-genai's pipeline for the IR of an artifact and, with `config.prompt_lookup`, a second one that drafts from prompts.

    Before a product with int8 weights, activations are quantized to int8 as well: on a processor with AMX by the row
    (`row_quantization.py`), on others by OpenVINO, in groups that share a scale. Groups as wide as the model allows make that a quarter
    faster than OpenVINO's default of 32.
    """
    # In a pipeline with prompt lookup each request drafts, which costs sampled text a fifth of its speed.
    lookups = [{}, {"prompt_lookup": True}] if config.prompt_lookup else [{}]
    scheduler = _scheduler(directory, config, len(lookups))
    properties: dict[str, Any] = {"DYNAMIC_QUANTIZATION_GROUP_SIZE": str(activation_group_size(directory))}
    ir = directory / "openvino"
    with TemporaryDirectory() as temporary:  # openvino-genai takes nothing but a path
        if (has_amx() if config.int8_rows is None else config.int8_rows) and _save_with_int8_rows(ir, Path(temporary)):
            ir = Path(temporary)
            # OpenVINO keeps all that leads from the last product to the logits in f32, and here that is the rows of every layer. With bf16
            # for the rest, it converts between the two; f32 throughout is faster (benchmarks/engine_settings.py, "arithmetic in bf16").
            properties["INFERENCE_PRECISION_HINT"] = "f32"
        properties |= dict(config.properties)
        return [genai.ContinuousBatchingPipeline(ir, scheduler, "CPU", properties | lookup, {}) for lookup in lookups]


def load_pipeline(directory: Path, config: OpenVINOConfig) -> genai.ContinuousBatchingPipeline:
    """Load the pipeline without prompt lookup, alone."""
    return load_pipelines(directory, replace(config, prompt_lookup=False))[0]


def _scheduler(directory: Path, config: OpenVINOConfig, pipelines: int) -> genai.SchedulerConfig:
    """Return the scheduler's settings of each of so many pipelines, which share the memory of the cache."""
    scheduler = genai.SchedulerConfig()
    limits = ModelLimits(directory)
    tokens = int(config.cache_contexts * limits.context_length) // pipelines
    most_tokens = config.cache_gb * 2**30 // pipelines // token_cache_bytes(directory)
    if tokens < most_tokens or pipelines > 1:  # the size in GB is a whole number
        scheduler.num_kv_blocks = max(1, min(tokens, most_tokens) // BLOCK_TOKENS)
    else:
        scheduler.cache_size = config.cache_gb
    scheduler.enable_prefix_caching = config.prefix_caching
    scheduler.max_num_batched_tokens = config.step_tokens
    if config.one_at_a_time:
        scheduler.dynamic_split_fuse = False
        scheduler.max_num_batched_tokens = limits.context_length
    return scheduler


def _save_with_int8_rows(source: Path, target: Path) -> bool:
    """Write an IR with quantized rows to `target`. Returns False if the model has no weights for that."""
    model = ov.Core().read_model(source / "openvino_model.xml")
    if not quantize_rows(model):
        return False
    ov.save_model(model, target / "openvino_model.xml")
    for file in source.glob("*.json"):
        shutil.copy(file, target)
    return True


def token_cache_bytes(directory: Path) -> int:
    """Return the size of a token's keys and values in an 8-bit cache, without their scales."""
    config = json.loads((directory / "config.json").read_text())
    layers, heads = config.get("num_hidden_layers") or config["n_layer"], config.get("num_attention_heads") or config["n_head"]
    head_width = config.get("head_dim") or (config.get("hidden_size") or config["n_embd"]) // heads
    return int(2 * layers * config.get("num_key_value_heads", heads) * head_width)


def activation_group_size(directory: Path) -> int:
    """Return the largest group size that divides the width of every matrix product of a model."""
    config = json.loads((directory / "config.json").read_text())
    width = config.get("hidden_size") or config["n_embd"]
    return math.gcd(width, config.get("intermediate_size") or config.get("n_inner") or 4 * width)
