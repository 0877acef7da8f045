"""The loop with scores that are made up: what it keeps, and when it stops."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.config import Config
from training.data.encoding import EncodingConfig, encode
from training.data.squad import load_splits
from training.device import build_accelerator
from training.fine_tuning.loop import FineTuner, Progress
from training.fine_tuning.metrics_log import MetricsLog
from training.interruption import Interruption


def tuning_of(base: Path, directory: Path, config: Config, validate: Callable[[Progress], dict[str, Any]]) -> FineTuner:
    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    sequences = encode(load_splits("data/quickstart").train, tokenizer, EncodingConfig(max_length=768))
    return FineTuner(model, sequences, config, None, build_accelerator(), MetricsLog(directory), directory / "checkpoints", validate)


@pytest.mark.parametrize(
    ("scores", "early_stop", "steps", "best"),
    [
        ([1.0, 2.0, 3.0, 4.0], 2, 20, 4.0),
        ([5.0, 2.0, 3.0, 6.0], 2, 15, 5.0),  # two in a row that were no better than the first
        ([5.0, 2.0, 3.0, 6.0], None, 20, 6.0),
        ([5.0, 5.0, 5.0, 5.0], None, 20, 5.0),
    ],
)
def test_the_best_is_kept_and_early_stop_counts_what_is_no_better(
    tiny_base: Path, tmp_path: Path, scores: list[float], early_stop: int | None, steps: int, best: float
) -> None:
    asked: list[int] = []

    def validate(done: Progress) -> dict[str, Any]:
        asked.append(done.steps)
        return {"f1": scores[len(asked) - 1], "step": done.steps}

    config = Config(max_steps=20, batch_tokens=768, max_length=768, validations=4, early_stop=early_stop)
    tuning = tuning_of(tiny_base, tmp_path, config, validate)
    done = tuning.run(Interruption())
    tuning.records.close()
    assert done.steps == steps
    assert asked == [5, 10, 15, 20][: steps // 5]
    assert done.best == {"f1": best, "step": asked[scores.index(best)]}
    assert done.validations == len(asked)


def test_the_same_weights_are_not_validated_twice(tiny_base: Path, tmp_path: Path) -> None:
    asked: list[int] = []

    def validate(done: Progress) -> dict[str, Any]:
        asked.append(done.steps)
        return {"f1": 1.0, "step": done.steps}

    tuning = tuning_of(tiny_base, tmp_path, Config(max_steps=3, batch_tokens=768, max_length=768, validations=8), validate)
    tuning.run(Interruption())
    tuning.records.close()
    assert asked == [1, 2, 3]
