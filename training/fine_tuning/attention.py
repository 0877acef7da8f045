"""Attention for training: the mask of sequences that share a context, and a kernel that is fast on CPUs.

On a CPU, torch's fused attention reaches only a fraction of the speed of bf16 matrix products, above all in the backward pass. At the
lengths of training sequences, plain matrix products with a bf16 softmax are two to three times faster, and the scores they store are
small.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedModel
from transformers.masking_utils import AttentionMaskInterface

MATMUL = "trigen_matmul"
MAX_DIFFERENCE = 0.1
"""Between the hidden states of two attentions, as a share of their norm: in bf16 they differ by a few percent, and by far more if one
ignores what the other does."""


def segment_mask(segments: Tensor) -> Tensor:
    """Return the boolean mask (rows, 1, length, length) for `segments` (rows, length).

    A token attends to itself and to the earlier tokens of its segment. If its segment is above 0, it also attends to segment 0, which
    is shared.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    return (((query == key) | ((query > 0) & (key == 0))) & causal)[:, None]


def matmul_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: object,
) -> tuple[Tensor, None]:
    """Compute attention in bf16, with the signature of transformers' AttentionInterface.

    Maps (rows, heads, length, size) to (rows, length, heads, size). `attention_mask` is additive, (rows, heads, length, length) in
    bf16; None means causal. The softmax sums in fp32 and stores bf16.
    """
    rows, heads, length, size = query.shape
    groups = heads // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, 1), value.repeat_interleave(groups, 1)
    with torch.autocast(query.device.type, enabled=False):
        query, key, value = (part.to(torch.bfloat16).reshape(rows * heads, length, size) for part in (query, key, value))
        if attention_mask is None:
            future = torch.full((length, length), float("-inf"), dtype=torch.bfloat16, device=query.device).triu(1)
            bias = future.expand(rows * heads, length, length)
        else:
            bias = attention_mask.view(rows * heads, length, length)
        scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=size**-0.5 if scaling is None else scaling)
        probabilities = nn.functional.dropout(torch.softmax(scores, -1), dropout, module.training)
        mixed = probabilities @ value
    return mixed.view(rows, heads, length, size).transpose(1, 2), None


@contextmanager
def evaluating(model: PreTrainedModel) -> Iterator[None]:
    """Compute without dropout and gradients, and restore the model's mode afterwards."""
    mode = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(mode)


def _no_mask(*_: object, **__: object) -> None:
    return None


def choose_attention(model: PreTrainedModel, device: torch.device, bf16: bool, length: int) -> None:
    """Make `model` use the fastest attention on `device`, which it is to train on, that computes what its architecture asks for.

    That is torch's fused attention. On a CPU in bf16, matrix products are faster. They know no windows, so they are taken only if they
    give the same hidden states for `length` tokens.
    """
    AttentionInterface.register(MATMUL, matmul_attention)
    AttentionMaskInterface.register(MATMUL, _no_mask)
    model.set_attn_implementation("sdpa")
    if bf16 and device.type == "cpu":
        expected = _hidden_states(model, length)
        model.set_attn_implementation(MATMUL)
        difference = (_hidden_states(model, length) - expected).norm() / expected.norm()
        if difference > MAX_DIFFERENCE:
            model.set_attn_implementation("sdpa")


def _hidden_states(model: PreTrainedModel, length: int) -> Tensor:
    ids = torch.arange(length)[None] % model.config.vocab_size
    with evaluating(model), torch.autocast("cpu", torch.bfloat16):
        hidden: Tensor = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    return hidden.float()


def attention_mask(model: PreTrainedModel, segments: Tensor) -> Tensor:
    """Return the mask of `segments` for `model`'s attention.

    It is boolean for torch's fused attention, additive and per head for `matmul_attention`.
    """
    mask = segment_mask(segments)
    if model.config._attn_implementation != MATMUL:
        return mask
    bias = torch.zeros(mask.shape, dtype=torch.bfloat16, device=mask.device).masked_fill_(~mask, float("-inf"))
    return bias.expand(-1, model.config.num_attention_heads, -1, -1).contiguous()
