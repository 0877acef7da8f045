"""The loop with made-up validation metrics: which validation it keeps, when it stops, and that a signal loses nothing."""

import functools
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from training.checkpoint import newest_checkpoint
from training.config import Config
from training.data.encoding import EncodingConfig, encode
from training.data.squad import load_splits
from training.device import build_accelerator
from training.fine_tuning.base_model import load_base
from training.fine_tuning.loop import FineTuner, Progress, Step, learning_rate
from training.fine_tuning.metrics_log import MetricsLog
from training.interruption import Interrupted, Interruption


def build_tuner(base: Path, directory: Path, config: Config, validate: Callable[[Progress], dict[str, Any]]) -> FineTuner:
    model, tokenizer = load_base(str(base), 768, config.dropout)
    sequences = encode(load_splits("data/quickstart").train, tokenizer, EncodingConfig(max_length=768))
    accelerator = build_accelerator()
    log = MetricsLog(directory, accelerator)
    return FineTuner(model, sequences, config, None, accelerator, log, directory / "checkpoints", validate)


@pytest.mark.parametrize(
    ("f1", "early_stop", "steps", "best"),
    [
        ([1.0, 2.0, 3.0, 4.0], 2, 20, 4.0),
        ([5.0, 2.0, 3.0, 6.0], 2, 15, 5.0),  # two in a row without improvement
        ([5.0, 2.0, 3.0, 6.0], None, 20, 6.0),
        ([5.0, 4.5, 5.0, 4.5], None, 20, 4.5),  # within the standard error of 1: the last weights are kept
        ([5.0, 3.5, 4.5, 3.0], None, 20, 4.5),
    ],
)
def test_the_last_weights_are_kept_unless_clearly_worse_and_early_stop_counts_those_without_improvement(
    tiny_base: Path, tmp_path: Path, f1: list[float], early_stop: int | None, steps: int, best: float
) -> None:
    validated: list[int] = []

    def validate(progress: Progress) -> dict[str, Any]:
        validated.append(progress.steps)
        return {"f1": f1[len(validated) - 1], "f1_error": 1.0, "step": progress.steps}

    config = Config(max_steps=20, batch_tokens=768, max_length=768, validations=4, early_stop=early_stop)
    tuner = build_tuner(tiny_base, tmp_path, config, validate)
    progress = tuner.run(Interruption())
    tuner.metrics_log.close()
    assert progress.steps == steps
    assert validated == [5, 10, 15, 20][: steps // 5]
    kept = [number for number, value in enumerate(f1[: len(validated)]) if value == best][-1]
    assert progress.best == {"f1": best, "f1_error": 1.0, "step": validated[kept]}
    assert progress.validations == len(validated)


def test_the_same_weights_are_not_validated_twice(tiny_base: Path, tmp_path: Path) -> None:
    validated: list[int] = []

    def validate(progress: Progress) -> dict[str, Any]:
        validated.append(progress.steps)
        return {"f1": 1.0, "f1_error": 1.0, "step": progress.steps}

    tuner = build_tuner(tiny_base, tmp_path, Config(max_steps=3, batch_tokens=768, max_length=768, validations=8), validate)
    tuner.run(Interruption())
    tuner.metrics_log.close()
    assert validated == [1, 2, 3]


def test_a_signal_ends_the_training_after_a_checkpoint_of_its_step(tiny_base: Path, tmp_path: Path) -> None:
    class AfterTwoSteps(MetricsLog):
        """Asks the run to end after its second step, as a signal would. A validation is due after the third."""

        def log(self, kind: str, step: int, **values: Any) -> None:
            super().log(kind, step, **values)
            if step == 2:
                interruption.requested = signal.SIGTERM

    interruption, config = Interruption(), Config(max_steps=9, batch_tokens=768, max_length=768, validations=3)
    tuner = build_tuner(tiny_base, tmp_path, config, lambda _: pytest.fail("the run validated instead of ending"))
    tuner.metrics_log = AfterTwoSteps(tmp_path, tuner.accelerator)
    with pytest.raises(Interrupted) as raised:
        tuner.run(interruption)
    tuner.metrics_log.close()
    assert raised.value.saved
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-00000003"


def test_a_signal_during_the_last_save_ends_the_run(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    interruption = Interruption()
    tuner = build_tuner(tiny_base, tmp_path, Config(max_steps=2, batch_tokens=768, max_length=768, validations=0), lambda _: {})
    save = tuner.save

    def save_and_receive_a_signal() -> None:
        save()
        interruption.requested = signal.SIGTERM

    monkeypatch.setattr(tuner, "save", save_and_receive_a_signal)
    with pytest.raises(Interrupted) as raised:
        tuner.run(interruption)
    tuner.metrics_log.close()
    assert raised.value.saved
    assert newest_checkpoint(tmp_path / "checkpoints") == tmp_path / "checkpoints/step-00000002"


@pytest.mark.parametrize("scale", [2.0**10, 2.0**30], ids=["fits", "overflows"])
def test_in_fp16_the_loss_is_scaled_and_a_step_that_overflows_is_skipped(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scale: float
) -> None:
    config = Config(max_steps=2, batch_tokens=1536, micro_tokens=768, max_length=768, validations=0, learning_rate=1e-3)
    losses = {}
    for precision in ("no", "fp16"):
        accelerator = build_accelerator()
        monkeypatch.setattr(accelerator.state, "_mixed_precision", precision)
        if precision == "fp16":  # accelerate refuses it on a CPU, which computes it all the same
            accelerator.scaler, accelerator.native_amp = torch.amp.GradScaler("cpu", init_scale=scale), True
        monkeypatch.setattr(f"{__name__}.build_accelerator", lambda accelerator=accelerator: accelerator)
        tuner = build_tuner(tiny_base, tmp_path / precision, config, lambda _: {})
        before = {name: weight.clone() for name, weight in tuner.model.named_parameters()}
        tuner.run(Interruption())
        losses[precision] = [line["loss"] for line in tuner.metrics_log.read("train")]
        tuner.metrics_log.close()
    assert losses["fp16"][0] == pytest.approx(losses["no"][0], rel=1e-3)
    assert accelerator.scaler is not None
    if scale < 2**20:
        assert losses["fp16"][1] == pytest.approx(losses["no"][1], rel=1e-3)
        assert losses["no"][1] != pytest.approx(losses["no"][0], rel=1e-3)
    else:
        assert accelerator.scaler.get_scale() == scale / 4  # halved after each of the two steps
        assert all(weight.equal(before[name]) for name, weight in tuner.model.named_parameters())


# Dynamo looks at the gradient of a block's input, which warns: https://github.com/pytorch/pytorch/pull/30531
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
def test_compiled_blocks_take_the_same_steps_after_a_warm_up_that_leaves_no_trace(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Without code for this processor, which would take half a minute to generate.
    monkeypatch.setattr(torch.nn.Module, "compile", functools.partialmethod(torch.nn.Module.compile, backend="eager"))
    losses, graphs = {}, []
    for compile in (False, True):
        config = Config(max_steps=3, batch_tokens=768, max_length=768, validations=0, compile=compile, dropout=0.1)
        tuner = build_tuner(tiny_base, tmp_path / str(compile), config, lambda _: {})
        torch.manual_seed(0)
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
        tuner.run(Interruption())
        losses[compile] = [line["loss"] for line in tuner.metrics_log.read("train")]
        tuner.metrics_log.close()
    assert losses[True] == pytest.approx(losses[False], rel=1e-6)
    assert graphs[1] == graphs[0] < torch._dynamo.utils.counters["stats"]["unique_graphs"]


def test_the_clock_of_a_step_includes_its_loading(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = Config(max_steps=3, batch_tokens=768, max_length=768, validations=0)
    tuner = build_tuner(tiny_base, tmp_path, config, lambda _: {})
    loaded, seconds, waited = tuner._load_steps(), 5.0, 0.0
    clock = iter(range(1000))
    monkeypatch.setattr("training.fine_tuning.loop.time.perf_counter", lambda: waited + next(clock) * 1e-6)

    def load_slowly() -> Iterator[Step]:
        nonlocal waited
        for step in loaded:
            waited += seconds
            yield step

    monkeypatch.setattr(tuner, "_load_steps", load_slowly)
    progress = tuner.run(Interruption())
    tuner.metrics_log.close()
    assert progress.seconds == pytest.approx(3 * seconds, abs=0.01)


def test_the_learning_rate_rises_then_falls_to_zero() -> None:
    rates = [learning_rate(1.0, percent / 100) for percent in range(101)]
    assert rates[0] == rates[100] == 0
    assert max(rates) == rates[5] == pytest.approx(1)
    assert rates[:6] == sorted(rates[:6])
    assert rates[5:] == sorted(rates[5:], reverse=True)
