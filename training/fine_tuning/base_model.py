"""Load the base model, check it, and prepare it for training."""

import inspect
from collections.abc import Iterator
from pathlib import Path

import torch
from peft import LoraConfig, inject_adapter_in_model
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.pytorch_utils import Conv1D

from models.engines.tokenization import context_length
from training.errors import TrainingError, first_line


def load_base(source: str, max_length: int, dropout: float = 0.0) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load a causal LM in fp32 and its tokenizer from a Hub id or a directory.

    Raises TrainingError if it cannot be loaded or served, takes fewer than `max_length` tokens, or has no end-of-text token.
    """
    path = Path(source).expanduser()
    if (source.startswith((".", "/", "~")) or source.count("/") > 1) and not path.is_dir():  # a Hub id has one slash at most
        raise TrainingError(f"base model {source}: no such directory")
    if path.is_dir() and not (path / "config.json").exists():
        raise TrainingError(f"base model {source}: there is no config.json in this directory; expected a causal LM saved by transformers")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    except Exception as error:  # of many types: broken files, unknown architectures, an unreachable Hub
        raise TrainingError(
            f"base model {source} cannot be loaded ({first_line(error)}): give --base-model a reachable Hub id or a local directory "
            "of a causal LM, or run --preset quickstart, which needs no Hub"
        ) from error
    if not model._supports_sdpa:
        raise TrainingError(
            f"base model {source}: the engines that serve cannot compute the attention of {type(model).__name__}, such as its soft caps or "
            "sinks; give --base-model another architecture: GPT-2, Llama, Qwen, Granite and others in docs/training.md"
        )
    if (tokens := context_length(model.config.to_dict())) < max_length:
        raise TrainingError(f"base model {source} takes at most {tokens} tokens: lower --max-length")
    if tokenizer.eos_token_id is None:
        raise TrainingError(f"base model {source}: its tokenizer has no end-of-text token, so the model could not learn to stop")
    _set_dropout(model, dropout)
    _fuse_gelu(model)
    return model, tokenizer


def add_adapters(model: PreTrainedModel, rank: int) -> None:
    """Freeze the model, and add a trainable low-rank adapter to each linear layer but the head (Hu et al., arXiv:2106.09685).

    The adapters change nothing at first. They are scaled by 2 (`lora_alpha` is twice the rank).
    """
    linear = (torch.nn.Linear, Conv1D)
    layers = [name for name, module in model.base_model.named_modules(prefix=model.base_model_prefix) if isinstance(module, linear)]
    is_transposed = any(isinstance(module, Conv1D) for module in model.modules())  # GPT-2's layers
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=layers, fan_in_fan_out=is_transposed), model)


def supports_shared_context(model: PreTrainedModel) -> bool:
    """Return whether questions can share their context: the architecture must take position ids, and one mask for all layers."""
    config = model.config
    windowed = getattr(config, "sliding_window", None) or len(set(getattr(config, "layer_types", None) or ["full_attention"])) > 1
    return not windowed and "position_ids" in inspect.signature(model.base_model.forward).parameters


def _fuse_gelu(model: PreTrainedModel) -> None:
    # GPT-2's gelu_new computes the same function as gelu_pytorch_tanh, which is one fused kernel.
    if getattr(model.config, "activation_function", None) == "gelu_new":
        model.config.activation_function = "gelu_pytorch_tanh"
        for module in model.modules():
            for name, child in module.named_children():
                if type(child).__name__ == "NewGELUActivation":
                    setattr(module, name, torch.nn.GELU(approximate="tanh"))


def has_dropout(model: PreTrainedModel) -> bool:
    """Return whether the model drops anything out while it trains."""
    return any(getattr(module, name) for module, name in _dropouts(model))


def _set_dropout(model: PreTrainedModel, probability: float) -> None:
    for module, name in _dropouts(model):
        setattr(module, name, probability)


def _dropouts(model: PreTrainedModel) -> Iterator[tuple[torch.nn.Module, str]]:
    """Yield each module with the name of the attribute that holds its probability of dropout."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            yield module, "p"
        if isinstance(getattr(module, "attention_dropout", None), float):  # Llama's attention; GPT-2's is a module
            yield module, "attention_dropout"
