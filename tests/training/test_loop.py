"""The loop with scores that are made up: what it keeps, and when it stops."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from training.config import Config
from training.data import load_splits
from training.device import join_processes
from training.encoding import Recipe, encode
from training.interruption import Interruption
from training.loop import FineTuning, Progress
from training.records import Records


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

    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    sequences = encode(load_splits("data/quickstart").train, tokenizer, Recipe(max_length=768))
    config = Config(max_steps=20, batch_tokens=768, max_length=768, validations=4, early_stop=early_stop)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    records = Records(tmp_path)
    tuning = FineTuning(model, sequences, config, None, join_processes(), records, tmp_path / "checkpoints", validate)
    done = tuning.run(Interruption())
    records.close()
    assert done.steps == steps
    assert asked == [5, 10, 15, 20][: steps // 5]
    assert done.best == {"f1": best, "step": asked[scores.index(best)]}
    assert done.validations == len(asked)
