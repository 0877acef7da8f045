"""What the comparison does where there is nothing to compare on; tests/test_train.py looks at one that there is."""

from pathlib import Path

import pytest
from datasets import Dataset

from training.comparison import NothingToCompare, compare
from training.config import Config
from training.data import Splits


def test_contexts_that_do_not_fit_the_llms_window_are_not_compared_on(tiny_base: Path, tmp_path: Path) -> None:
    rows = Dataset.from_list([{"context": "a lighthouse " * 2000, "question": "What?", "answers": {"text": ["a lighthouse"]}}])
    with pytest.raises(NothingToCompare, match="no held-out context fits the LLM's window"):
        compare(Config(base_model=str(tiny_base), output_dir=tmp_path), Splits(rows, rows), {"llm": {}})
