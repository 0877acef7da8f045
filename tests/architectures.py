"""Small random models of other architectures than GPT-2."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

WINDOW = 16
LLAMA: dict[str, Any] = {
    "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "vocab_size": 1000, "max_position_embeddings": 768, "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0,
}  # fmt: skip
MULTI_HEAD = {name: value for name, value in LLAMA.items() if name != "num_key_value_heads"}
HEADS = {"head_dim": 16}
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "qwen3": LLAMA | HEADS,
    "mistral": LLAMA | {"sliding_window": WINDOW},
    "gemma3_text": LLAMA | HEADS | {"sliding_window": WINDOW},
    "granite": LLAMA | {"logits_scaling": 8.0, "embedding_multiplier": 12.0, "residual_multiplier": 0.2},
    "cohere": LLAMA | {"logit_scale": 0.0625},
    "gpt_neox": MULTI_HEAD,
    "opt": MULTI_HEAD | {"ffn_dim": 128, "word_embed_proj_dim": 64},
}
WINDOWED = {"mistral", "gemma3_text"}
REFUSED: dict[str, dict[str, Any]] = {
    "gemma2": LLAMA | HEADS | {"sliding_window": WINDOW},
    "gpt_oss": LLAMA | HEADS | {"num_local_experts": 2, "sliding_window": WINDOW},
}
"""Architectures that the engines cannot serve."""


def build(name: str, **configuration: Any) -> PreTrainedModel:
    """Return a model of an architecture, with `configuration` besides what `ARCHITECTURES` or `REFUSED` says."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **(ARCHITECTURES | REFUSED)[name] | configuration)
    config.initializer_range = config.init_std = 0.2  # so that attention matters
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    return model


def save(model: PreTrainedModel, directory: Path, tokenizer: Path) -> Path:
    """Write a model with the tokenizer of another directory. Returns `directory`."""
    model.save_pretrained(directory)
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)
    return directory
