"""How the CUDA engine samples its tokens, and how much memory it takes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.base import SamplingParams
from models.engines.transformers import CUDA_BYTES, Sampling, TransformersEngine, cuda_memory_share
from models.sampling import candidates


@settings(deadline=None)
@given(st.data())
def test_the_cuda_engine_samples_like_the_reference_function(data: st.DataObject) -> None:
    draw = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    logits = draw.normal(0, data.draw(st.floats(0.1, 6)), 50)
    params = SamplingParams(
        temperature=data.draw(st.floats(0.1, 2)), top_k=data.draw(st.integers(0, 60)), top_p=data.draw(st.floats(0.01, 1))
    )
    weights = np.exp((logits - logits.max()) / params.temperature)
    kept = candidates(weights, min(params.top_k, 50), params.top_p)
    uniform = draw.random(64, dtype=np.float32)
    sampling = Sampling()
    numbers = torch.tensor([[params.temperature], [float(params.top_k)], [params.top_p], [0.0]]).repeat(1, 64)
    numbers[3] = torch.from_numpy(uniform)
    scores = torch.from_numpy(logits).float().repeat(64, 1)
    assert sampling(torch.zeros(64), scores, numbers.view(torch.int32)) is scores
    output = torch.zeros(2, 64, dtype=torch.int32)
    sampling.write_sampled(scores, output)
    kept = kept[np.argsort(-weights[kept], kind="stable")]
    mass = weights[kept].cumsum()
    unambiguous = np.abs(mass[:, None] - uniform * mass[-1]).min(0) > 1e-4 * mass[-1]  # elsewhere rounding decides
    expected = kept[np.minimum(np.searchsorted(mass, uniform * mass[-1], side="right"), len(kept) - 1)]
    distance_to_top_p = np.abs(np.sort(weights)[::-1].cumsum() / weights.sum() - params.top_p).min() if not params.top_k else 1
    if distance_to_top_p > 1e-5:
        assert output[0].numpy()[unambiguous].tolist() == expected[unambiguous].tolist()
    logprobs = output[1].view(torch.float32)
    assert logprobs.tolist() == pytest.approx(scores.log_softmax(-1)[0, output[0].long()].tolist(), abs=1e-5)


@pytest.mark.parametrize("free", [8, 140])
def test_the_cuda_cache_leaves_memory_to_the_trainer_and_to_other_processes(free: int, monkeypatch: pytest.MonkeyPatch) -> None:
    total, reserved = 141 * 2**30, 10 * 2**30
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (free * 2**30, total))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda: reserved)
    taken = cuda_memory_share() * (total - reserved)  # see PagedAttentionMemoryHandler.get_available_memory of transformers
    assert taken == pytest.approx(min(CUDA_BYTES, 0.8 * free * 2**30))


def test_the_engine_leaves_torchs_random_state_to_the_fine_tuning(tiny_base: Path) -> None:
    torch.manual_seed(5)
    state = torch.get_rng_state()
    TransformersEngine(tiny_base).close()
    assert torch.get_rng_state().equal(state)
