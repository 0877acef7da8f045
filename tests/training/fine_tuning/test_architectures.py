"""Small random models of other architectures: the training's loss is that of the model as transformers computes it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy
from transformers.integrations.flex_attention import flex_attention_forward

from models.engines.tokenization import ModelLimits
from tests.architectures import ARCHITECTURES, REFUSED, WINDOW, WINDOWED, build, save
from training.data.batching import Batch
from training.data.packing import BLOCK, pack
from training.errors import TrainingError
from training.fine_tuning import attention
from training.fine_tuning.attention import FLEX, MATMUL, choose_attention
from training.fine_tuning.base_model import load_base
from training.fine_tuning.loop import blocks, build_optimizer, learning_rate_scales
from training.fine_tuning.objective import SupervisedLoss

LENGTH = 48
NONLINEAR = {"granite", "cohere"}


def batch_of_one_text() -> Batch:
    ids = torch.randint(5, 300, (1, LENGTH), generator=torch.Generator().manual_seed(1))
    predictors = torch.arange(LENGTH - 1)
    return Batch(ids, torch.arange(LENGTH)[None], None, None, predictors, ids[0, 1:], torch.ones(LENGTH - 1), LENGTH)


@pytest.mark.parametrize("bf16", [False, True], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_loss_is_the_models_own(name: str, bf16: bool) -> None:
    model, batch = build(name), batch_of_one_text()
    model.set_attn_implementation("eager")
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(input_ids=batch.input_ids).logits[0, :-1].float()
        choose_attention(model, torch.device("cpu"), bf16, LENGTH)
        objective = SupervisedLoss(model)
        loss = objective(batch)
    assert (model.config._attn_implementation == MATMUL) == (bf16 and name not in WINDOWED)
    assert objective.head_is_linear == (name not in NONLINEAR)
    assert loss.item() == pytest.approx(cross_entropy(logits, batch.targets, reduction="sum").item(), rel=0.02 if bf16 else 1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.usefixtures("flex_on_cpu")
def test_packed_texts_have_the_models_own_loss_as_on_a_gpu(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = build(name), batch_of_one_text()
    dtypes: set[torch.dtype] = set()

    def recording_dtypes(module: Any, *inputs: Any, **settings: Any) -> Any:
        dtypes.update(tensor.dtype for tensor in inputs[:3])
        return flex_attention_forward(module, *inputs, **settings)

    monkeypatch.setattr(attention, "flex_attention_forward", recording_dtypes)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):  # leaves queries and keys in fp32 where they are rotated
        choose_attention(model, torch.device("cuda"), True, LENGTH)
        expected = SupervisedLoss(model)(batch).item()
        assert (model.config._attn_implementation == FLEX) == (name not in WINDOWED)
        if name not in WINDOWED:
            row = {"input_ids": batch.input_ids[0], "position_ids": batch.position_ids[0], "segments": [1] * LENGTH}
            loss = SupervisedLoss(model)(pack([row | {"weights": [0.0] + [1.0] * (LENGTH - 1)}] * 2, BLOCK)).item()
            assert loss == pytest.approx(2 * expected, rel=0.02)
            assert dtypes == {torch.bfloat16}


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_learning_rate_falls_from_the_last_block_to_the_embeddings(name: str) -> None:
    model: Any = build(name)
    first, last = blocks(model)
    embeddings, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    scales = learning_rate_scales(model, 0.1)
    assert scales.keys() == set(model.parameters())
    assert {scales[parameter] for parameter in first.parameters()} == {scales[embeddings]} == {0.1}
    assert {scales[parameter] for parameter in last.parameters()} == {1.0}
    assert scales[head] == (0.1 if head is embeddings else 1.0)
    optimizer = build_optimizer(model, 0.1)
    assert {id(p): group["scale"] for group in optimizer.param_groups for p in group["params"]} == {id(p): s for p, s in scales.items()}
    assert all(group["weight_decay"] == (0.01 if group["params"][0].dim() >= 2 else 0) for group in optimizer.param_groups)
    assert {group["scale"] for group in build_optimizer(model, 1.0).param_groups} == {1.0}


@pytest.mark.parametrize("name", REFUSED)
def test_attention_that_the_engines_cannot_compute_is_refused(name: str, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"cannot compute the attention of .* give --base-model another"):
        load_base(str(save(build(name), tmp_path, tiny_base)), WINDOW)


def test_texts_are_no_longer_than_a_sliding_window(tiny_base: Path, tmp_path: Path) -> None:
    save(build("mistral"), tmp_path, tiny_base)
    load_base(str(tmp_path), WINDOW)
    with pytest.raises(TrainingError, match=f"takes at most {WINDOW} tokens: lower --max-length"):
        load_base(str(tmp_path), WINDOW + 1)
    assert ModelLimits(tmp_path).context_length == WINDOW
