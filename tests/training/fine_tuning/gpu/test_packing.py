"""Training with FlexAttention on packed sequences, as on a GPU: the losses and gradients are those of separate rows on a CPU."""

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import AutoTokenizer

from tests.conftest import run
from training.config import Config
from training.data.batching import Batch, collate
from training.data.encoding import EncodingConfig, encode
from training.data.packing import PackedSampler, pack
from training.data.squad import load_splits
from training.device import build_accelerator
from training.fine_tuning import attention, loop
from training.fine_tuning.attention import FLEX, choose_attention
from training.fine_tuning.base_model import load_base
from training.fine_tuning.loop import FineTuner, blocks
from training.fine_tuning.metrics_log import MetricsLog
from training.fine_tuning.objective import SupervisedLoss
from training.interruption import Interruption

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
LENGTH = 512


@pytest.fixture(scope="module")
def sequences(tiny_base: Path) -> Dataset:
    rows = load_splits("data/quickstart").train.select(range(20))
    config = EncodingConfig(max_length=LENGTH, context_free_share=0.5, text_share=0.5, text_weight=0.5, abstain=True)
    return encode(rows, AutoTokenizer.from_pretrained(tiny_base), config)


def loss_and_gradients(objective: SupervisedLoss, batches: Sequence[Batch]) -> tuple[float, torch.Tensor]:
    objective.zero_grad()
    losses = [objective(batch) for batch in batches]
    for loss in losses:
        loss.backward()
    return sum(loss.item() for loss in losses), torch.cat([p.grad.flatten() for p in objective.parameters() if p.grad is not None])


@pytest.mark.usefixtures("flex_on_cpu")
def test_packed_sequences_have_the_loss_and_the_gradients_of_separate_rows_in_one_compiled_shape(
    tiny_base: Path, sequences: Dataset
) -> None:
    rows = list(sequences.with_format("numpy"))
    assert len({row["segments"].min() for row in rows}) > 1  # of all kinds
    model, _ = load_base(str(tiny_base), LENGTH)
    model.train()
    choose_attention(model, CPU, False, LENGTH)
    objective = SupervisedLoss(model)
    loss, gradients = loss_and_gradients(objective, [collate([row]) for row in rows])
    padded_loss, padded_gradients = loss_and_gradients(objective, [collate(rows, multiple=16)])

    choose_attention(model, CUDA, False, LENGTH)  # of a model on the CPU
    assert model.config._attn_implementation == FLEX
    compiler = CompileCounterWithBackend("aot_eager")
    for block in blocks(model):
        block.compile(backend=compiler, dynamic=False)
    sampler = PackedSampler(sequences["length"], sum(sequences["length"]), seed=0)
    count, length = sampler.shape(1536, 1)
    assert count > 1
    micro_batches = sampler.split(sampler.steps(0)[0], 1536, 1)
    with torch.compiler.set_stance("default"):
        packed_loss, packed_gradients = loss_and_gradients(objective, [pack([rows[i] for i in part], length) for part in micro_batches])
    assert compiler.frame_count == 1  # for all blocks and batches
    assert padded_loss == pytest.approx(loss, rel=1e-5)
    assert packed_loss == pytest.approx(loss, rel=1e-5)
    for other in (padded_gradients, packed_gradients):
        assert (other - gradients).norm() < 1e-5 * gradients.norm()


@pytest.mark.usefixtures("flex_on_cpu")
def test_the_loop_trains_on_packed_steps(tiny_base: Path, sequences: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop as on a GPU, but for the compiler: its first loss is that of the same sequences in separate rows."""
    model, _ = load_base(str(tiny_base), LENGTH)
    choose_attention(model, CPU, False, LENGTH)
    config = Config(epochs=1, batch_tokens=2048, micro_tokens=1024, max_length=LENGTH, validations=0)
    step = PackedSampler(sequences["length"], config.batch_tokens, config.seed).steps(0)[0]
    rows = list(sequences.with_format("numpy").select(step))
    with torch.no_grad():
        expected = sum(SupervisedLoss(model)(collate([row])).item() for row in rows) / sum(sequences.select(step)["supervised"])

    monkeypatch.setattr(loop, "choose_attention", lambda model, device, bf16, length: choose_attention(model, CUDA, bf16, length))
    accelerator = build_accelerator()
    log = MetricsLog(tmp_path, accelerator)
    tuner = FineTuner(model, sequences, config, None, accelerator, log, tmp_path / "checkpoints", lambda _: {})
    assert isinstance(tuner.sampler, PackedSampler)
    progress = tuner.run(Interruption())
    steps = log.read("train")
    log.close()
    assert progress.tokens == sum(sequences["length"])
    assert len(steps) == tuner.sampler.count(1) > 1
    assert steps[0]["loss"] == pytest.approx(expected, rel=1e-2 if accelerator.mixed_precision == "bf16" else 1e-5)


@pytest.mark.usefixtures("flex_on_cpu")
def test_attention_that_ignores_sequences_or_contexts_is_not_taken(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _ = load_base(str(tiny_base), LENGTH)
    for name, parameter in model.named_parameters():
        if "c_attn" in name:
            torch.nn.init.normal_(parameter, std=0.3)  # so that it matters what a token attends to
    choose_attention(model, CUDA, False, 64)
    assert model.config._attn_implementation == FLEX
    blocks_of = attention.segment_blocks
    for wrong in (lambda segments, contexts: blocks_of(0 * segments, contexts), lambda segments, _: blocks_of(segments, segments)):
        monkeypatch.setattr(attention, "segment_blocks", wrong)
        choose_attention(model, CUDA, False, 64)
        assert model.config._attn_implementation == "sdpa"


def test_without_a_kernel_or_with_dropout_torchs_attention_remains(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_kernel(*_: object, **__: object) -> None:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr(attention, "flex_attention_forward", no_kernel)
    model, _ = load_base(str(tiny_base), LENGTH)
    with pytest.warns(UserWarning, match="no compiler here"):
        choose_attention(model, CUDA, False, 64)
    assert model.config._attn_implementation == "sdpa"
    model, _ = load_base(str(tiny_base), LENGTH, dropout=0.1)
    choose_attention(model, CUDA, False, 64)  # does not even try
    assert model.config._attn_implementation == "sdpa"


def test_a_step_on_a_gpu_waits_for_nothing_and_mixes_no_devices(tiny_base: Path) -> None:
    done = run(["-m", "tests.training.fine_tuning.gpu.fake_gpu", str(tiny_base)], tiny_base)
    assert done.returncode == 0, done.stderr
