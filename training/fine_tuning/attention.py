"""Attention for training: the masks of sequences that share a context, and kernels that are fast with them.

On a CPU, torch's fused attention reaches only a fraction of the speed of bf16 matrix products, above all in the backward pass. At the
lengths of training sequences, plain matrix products with a bf16 softmax are two to three times faster, and the scores they store are
small.

On a GPU, torch's fused attention takes such a mask only in full, and computes what the mask hides too. FlexAttention (Dong et al.,
arXiv:2412.05496) skips the blocks of 128 × 128 tokens in which the mask hides everything, so many sequences can be packed into one row.
"""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.flex_attention import flex_attention_forward
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from training.data.batching import Batch, round_up
from training.data.packing import BLOCK, pack
from training.errors import first_line
from training.fine_tuning.base_model import has_dropout, supports_shared_context

MATMUL, FLEX = "trigen_matmul", "trigen_flex"
MAX_DIFFERENCE = 0.1
"""Between the hidden states of two attentions, as a share of their norm: in bf16 they differ by a few percent, and by far more if one
ignores what the other does."""


def segment_mask(segments: Tensor, contexts: Tensor) -> Tensor:
    """Return the boolean mask (rows, 1, length, length) for `segments` and `contexts` (rows, length); see `Batch`.

    A token attends to itself and to the earlier tokens of its segment and of its context.
    """
    key = segments[:, None, :]
    causal = torch.ones(segments.shape[1], segments.shape[1], dtype=torch.bool, device=segments.device).tril()
    return (((key == segments[:, :, None]) | (key == contexts[:, :, None])) & causal)[:, None]


def segment_blocks(segments: Tensor, contexts: Tensor) -> BlockMask:
    """Return the mask of `segment_mask` for FlexAttention, without ever computing it in full. The length is a multiple of `BLOCK`.

    A block of keys is visited for a block of queries if the ranges of their segment numbers overlap. It may still hold no token that any
    of the queries attends to; the mask is applied to each token of it.
    """

    def attends(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:  # noqa: ARG001
        segment = segments[row, key]
        return ((segment == segments[row, query]) | (segment == contexts[row, query])) & (key <= query)

    def per_block(values: Tensor) -> Tensor:
        return values.view(len(values), -1, BLOCK)

    first, last = per_block(torch.minimum(segments, contexts)).amin(2), per_block(torch.maximum(segments, contexts)).amax(2)
    keys = per_block(segments)
    visited = ((keys.amin(2)[:, None, :] <= last[:, :, None]) & (keys.amax(2)[:, None, :] >= first[:, :, None])).tril()
    counts, order = visited.sum(-1, dtype=torch.int32), visited.int().argsort(dim=-1, descending=True, stable=True).int()
    mask = BlockMask.from_kv_blocks(counts[:, None], order[:, None], BLOCK_SIZE=BLOCK, mask_mod=attends)
    setattr(mask, "ndim", 4)  # noqa: B010  # transformers' GPT-2 asks every mask for it
    return mask


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


def flex_attention(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: BlockMask | Tensor | None, **settings: Any
) -> tuple[Tensor, Tensor | None]:
    """Compute attention with transformers' FlexAttention where the mask is a BlockMask, elsewhere with torch's fused attention.

    Under autocast, rotary embeddings leave queries and keys in fp32. The fused attention casts them; FlexAttention would compute in fp32.
    """
    if not isinstance(attention_mask, BlockMask):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **settings)
    return flex_attention_forward(module, query.to(value.dtype), key.to(value.dtype), value, attention_mask, **settings)


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
    """Make `model`, which is on `device`, use the fastest attention there that computes what its architecture asks for.

    That is torch's fused attention. On a CPU in bf16, matrix products are faster, which know no windows; on a GPU FlexAttention, with
    packed sequences. Either is taken only if it gives the same hidden states for sequences of `length` tokens.
    """
    AttentionInterface.register(MATMUL, matmul_attention)
    AttentionMaskInterface.register(MATMUL, _no_mask)
    AttentionInterface.register(FLEX, flex_attention)
    AttentionMaskInterface.register(FLEX, sdpa_mask)
    model.set_attn_implementation("sdpa")
    if device.type == "cpu" and bf16:
        candidate = MATMUL
    elif device.type == "cuda" and can_pack(model):
        candidate = FLEX
    else:
        return
    try:
        agrees = attentions_agree(model, candidate, bf16, length)
    except Exception as error:  # of many types: FlexAttention compiles a kernel, which this GPU or this machine's compiler may refuse
        warnings.warn(f"{candidate} does not run here, so sdpa takes its place: {first_line(error)}", stacklevel=2)
        agrees = False
    if not agrees:
        model.set_attn_implementation("sdpa")


def can_pack(model: PreTrainedModel) -> bool:
    """Return whether `model` may be trained on packed sequences: it calls a registered attention, and drops nothing out of it.

    That transformers does not list an architecture for FlexAttention (5.23 leaves GPT-2 out) says nothing: `attentions_agree` tries.
    """
    return bool(model._supports_attention_backend) and supports_shared_context(model) and not has_dropout(model)


def attentions_agree(model: PreTrainedModel, candidate: str, bf16: bool, length: int) -> bool:
    """Set `candidate` as the attention of `model`; return whether two sequences have the hidden states that they had before.

    FlexAttention gets them packed into one row, each as a context with one question.
    """
    ids = torch.arange(2 * length, device=model.device).view(2, length) % model.config.vocab_size
    expected = _hidden_states(model, bf16, {"input_ids": ids})
    model.set_attn_implementation(candidate)
    if candidate == FLEX:
        segments = [0] * (length // 2) + [1] * (length - length // 2)
        row = {"position_ids": range(length), "segments": segments, "weights": [0.0] * length}
        packed = pack([row | {"input_ids": part} for part in ids.tolist()], round_up(2 * length, BLOCK)).to(model.device)
        states = _hidden_states(model, bf16, model_inputs(model, packed), gradients=True)[0, : 2 * length].view_as(expected)
    else:
        states = _hidden_states(model, bf16, {"input_ids": ids})
    return bool((states - expected).norm() <= MAX_DIFFERENCE * expected.norm())


def _hidden_states(model: PreTrainedModel, bf16: bool, inputs: dict[str, Any], gradients: bool = False) -> Tensor:
    with evaluating(model), torch.set_grad_enabled(gradients):
        with torch.autocast(model.device.type, torch.bfloat16, enabled=bf16):
            hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state.float()
        if gradients:  # they have a kernel of their own, which must run here too
            hidden.sum().backward()
            model.zero_grad()
    return hidden.detach()


def model_inputs(model: PreTrainedModel, batch: Batch) -> dict[str, Any]:
    """Return the arguments of `model` for `batch`: the ids and, if rows have several segments, positions and the mask of its attention.

    The mask is boolean for torch's fused attention, additive and per head for `matmul_attention`, and in blocks for `flex_attention`.
    """
    if batch.segments is None or batch.contexts is None:
        return {"input_ids": batch.input_ids}
    inputs = {"input_ids": batch.input_ids, "position_ids": batch.position_ids}
    if model.config._attn_implementation == FLEX:
        return inputs | {"attention_mask": segment_blocks(batch.segments, batch.contexts)}
    mask = segment_mask(batch.segments, batch.contexts)
    if model.config._attn_implementation == MATMUL:
        bias = torch.zeros(mask.shape, dtype=torch.bfloat16, device=mask.device).masked_fill_(~mask, float("-inf"))
        mask = bias.expand(-1, model.config.num_attention_heads, -1, -1).contiguous()
    return inputs | {"attention_mask": mask}
