"""The attention mask against a literal reading of its rules, and the matrix products against torch's attention."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from training.fine_tuning.attention import matmul_attention, segment_mask


@given(st.lists(st.integers(-2, 3), min_size=1, max_size=12))
def test_a_token_attends_to_its_own_segment_and_to_the_shared_one(segments: list[int]) -> None:
    mask = segment_mask(torch.tensor([segments]))[0, 0]
    for query, query_segment in enumerate(segments):
        for key, key_segment in enumerate(segments):
            attends = key <= query and (query_segment == key_segment or (query_segment > 0 and key_segment == 0))
            assert bool(mask[query, key]) == attends


@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("masked", [False, True])
def test_matrix_products_agree_with_torchs_attention(key_heads: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, 33, 16, generator=generator)
    key, value = (torch.randn(2, key_heads, 33, 16, generator=generator) for _ in range(2))
    mask, bias = None, None
    if masked:
        mask = segment_mask(torch.tensor([[0] * 10 + [1] * 12 + [2] * 11, [0] * 5 + [1] * 20 + [-1] * 8]))
        bias = torch.zeros(2, 4, 33, 33, dtype=torch.bfloat16).masked_fill(~mask, float("-inf"))
    expected = scaled_dot_product_attention(query, key, value, attn_mask=mask, is_causal=mask is None, enable_gqa=True)
    mixed, _ = matmul_attention(nn.Identity(), query, key, value, bias)
    assert mixed.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.transpose(1, 2).float(), expected, rtol=0.05, atol=0.03)
