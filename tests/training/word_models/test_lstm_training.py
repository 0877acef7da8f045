"""How the LSTM is trained; `tests/models/test_rnn.py` tests what it learns, `tests/training/test_resume.py` that a killed fit resumes."""

import math
import signal
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DynamicOutputShapeException, FakeTensorMode

from training.interruption import Interrupted, Interruption
from training.word_models.fitting import fit_lstm
from training.word_models.lstm import LSTMConfig, LSTMLanguageModel
from training.word_models.lstm_training import LSTMTrainer, Window, cut_windows

CONFIG = LSTMConfig(width=32, cutoffs=(10, 20))
VOCABULARY = 40


def build_trainer(windows: list[Window], checkpoints: Path = Path(), max_seconds: float | None = None) -> LSTMTrainer:
    return LSTMTrainer(LSTMLanguageModel(VOCABULARY, CONFIG), CONFIG, windows, 3, max_seconds, False, checkpoints, math.inf)


@pytest.fixture
def windows() -> list[Window]:
    find_rare = LSTMLanguageModel(VOCABULARY, CONFIG).words.find_rare
    return [Window(*pair, *map(find_rare, pair)) for pair in cut_windows(torch.randint(VOCABULARY, (2000,)), 4, 8)]


def test_a_window_needs_no_value_from_the_device(windows: list[Window]) -> None:
    """A fake tensor has a shape and no values, so what would wait for a GPU to compute a value raises."""
    with FakeTensorMode() as mode:
        fake = [
            Window(
                mode.from_tensor(window.inputs),
                mode.from_tensor(window.targets),
                [mode.from_tensor(indices) for indices in window.rare_inputs],
                [mode.from_tensor(indices) for indices in window.rare_targets],
            )
            for window in windows[:2]
        ]
        trainer = build_trainer(fake)
        for window in fake:  # the first without the state of an earlier one, the second with it
            assert trainer.train_window(window, 1e-3).shape == ()
        with pytest.raises(DynamicOutputShapeException):  # which the windows spare each step
            trainer.model.words.find_rare(fake[0].inputs)


def test_a_resumed_fit_restores_the_best_weights_of_the_first_run(windows: list[Window], tmp_path: Path) -> None:
    def run(trainer: LSTMTrainer, interruption: Interruption) -> Tensor:
        def measure() -> tuple[float, float]:
            if trainer.progress.epochs == 1:  # the second is about to be finished
                interruption.requested = stop
            return 1.0, 1.0 + trainer.progress.epochs  # the first is the best

        trainer.run(measure, interruption)
        return trainer.model.words.head.detach()

    def build(checkpoints: Path) -> LSTMTrainer:
        torch.manual_seed(0)
        return build_trainer(windows[:3], checkpoints)

    stop = None
    expected = run(build(tmp_path / "uninterrupted"), Interruption())
    stop = signal.SIGTERM
    with pytest.raises(Interrupted):
        run(build(tmp_path / "interrupted"), Interruption())
    resumed = build_trainer(windows[:3], tmp_path / "interrupted")
    resumed.resume(tmp_path / "interrupted/last")
    assert torch.equal(run(resumed, Interruption()), expected)
    assert resumed.progress.best_epoch == 1
    assert resumed.progress.rate_factor == 1 / 16


def test_a_resumed_fit_has_the_time_that_was_left(windows: list[Window], tmp_path: Path) -> None:
    first = build_trainer(windows, tmp_path, max_seconds=3600)
    first.started -= 1800
    first.save()
    second = build_trainer(windows, tmp_path, max_seconds=3600)
    second.resume(tmp_path / "step-00000000")
    assert second.fraction_done >= 0.5
    assert not second.finished


def test_a_fit_ends_with_the_last_epoch_that_stays_within_the_words(tmp_path: Path) -> None:
    texts = ["a b c d e f g h"] * 20
    words = fit_lstm(texts, tmp_path / "one", config=CONFIG, epochs=1, seconds=None, seed=0)["words"]
    for limit, epochs in ((words // 2, 1), (3 * words, 2), (9 * words, 4)):
        fitted = fit_lstm(texts, tmp_path / str(limit), config=CONFIG, epochs=4, words=limit, seconds=None, seed=0)
        assert fitted["epochs"] == epochs
