"""The attention masks against a literal reading of their rules, and the matrix products against torch's attention."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.attention.flex_attention import create_mask
from torch.nn.functional import scaled_dot_product_attention

from training.data.batching import round_up
from training.data.packing import BLOCK, pack
from training.fine_tuning.attention import matmul_attention, segment_blocks, segment_mask

SEGMENTS = st.lists(st.integers(-2, 3), min_size=1, max_size=12)


def packed(rows: list[list[int]], length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the segments and the contexts of sequences with these segments, packed into one row."""
    columns = ("input_ids", "position_ids", "weights")
    batch = pack([dict.fromkeys(columns, [0] * len(segments)) | {"segments": segments} for segments in rows], length)
    assert batch.segments is not None
    assert batch.contexts is not None
    return batch.segments, batch.contexts


@given(st.lists(SEGMENTS, min_size=1, max_size=3))
def test_a_token_attends_to_its_own_segment_and_to_the_context_of_its_sequence(rows: list[list[int]]) -> None:
    places = [(row, segment) for row, segments in enumerate(rows) for segment in segments]
    mask = segment_mask(*packed(rows, len(places) + 2))[0, 0]
    for query, (query_row, query_segment) in enumerate(places):
        for key, (key_row, key_segment) in enumerate(places):
            related = query_segment == key_segment or (query_segment > 0 and key_segment == 0)
            assert bool(mask[query, key]) == (key <= query and query_row == key_row and related)
    assert mask[-2:].nonzero().tolist() == [[0, len(places)], [1, len(places) + 1]]  # padding attends to itself


@settings(max_examples=15)
@given(st.lists(st.tuples(SEGMENTS, st.integers(1, 40)), min_size=1, max_size=12), st.integers(1, 2))
def test_blocks_hold_the_mask_and_only_blocks_of_the_same_sequence_are_visited(rows: list[tuple[list[int], int]], copies: int) -> None:
    lengthened = [[segment for segment in segments for _ in range(times)] for segments, times in rows]
    length = round_up(sum(map(len, lengthened)) + 1, BLOCK)
    segments, contexts = (part.expand(copies, -1).contiguous() for part in packed(lengthened, length))
    blocks, mask = segment_blocks(segments, contexts), segment_mask(segments, contexts)
    assert torch.equal(create_mask(blocks.mask_mod, copies, None, length, length, "cpu"), mask)
    visited = blocks.to_dense().bool()
    attended = mask.view(copies, 1, length // BLOCK, BLOCK, -1, BLOCK).any(5).any(3)
    assert not (attended & ~visited).any()
    sequence = torch.tensor([*(row for row, ids in enumerate(lengthened) for _ in ids), *range(len(rows), len(rows) + length)][:length])
    same = (sequence[:, None] == sequence).view(length // BLOCK, BLOCK, -1, BLOCK).any(3).any(1)
    assert not (visited & ~same).any()


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_matrix_products_agree_with_torchs_attention(key_heads: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 33, 16, generator=generator)
    key, value = (torch.randn(2, key_heads, 33, 16, generator=generator) for _ in range(2))
    mask, bias = None, None
    if masked:
        segments = torch.tensor([[0] * 10 + [1] * 12 + [2] * 11, [0] * 5 + [1] * 20 + [-1] * 8])
        mask = segment_mask(segments, segments.clamp(max=0))
        bias = torch.zeros(2, 4, 33, 33, dtype=torch.bfloat16).masked_fill(~mask, float("-inf"))
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    mixed, _ = matmul_attention(nn.Identity(), query, key, value, bias)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.transpose(1, 2).float(), expected, rtol=0.05, atol=0.03)
