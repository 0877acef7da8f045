"""The directory of a run."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART
from training.config import Config
from training.data.squad import Splits, load_splits
from training.errors import TrainingError
from training.run import begin, write_metrics


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(str(QUICKSTART))


def test_resuming_keeps_what_is_finished_and_starting_anew_does_not(tmp_path: Path, splits: Splits) -> None:
    config = Config(output_dir=tmp_path, only=("bigram", "rnn"))
    assert begin(config, splits) == {}
    (tmp_path / "bigram").mkdir()
    write_metrics({"bigram": {"bits_per_byte": 5.0}, "rnn": {"bits_per_byte": 4.0}}, tmp_path)
    assert begin(dataclasses.replace(config, resume=True), splits) == {"bigram": {"bits_per_byte": 5.0}}  # the rnn's files are gone
    assert begin(config, splits) == {}
    assert not (tmp_path / "bigram").exists()
    assert json.loads((tmp_path / "config.json").read_text())["configuration"]["only"] == ["bigram", "rnn"]


def test_what_decides_what_is_learned_may_not_change(tmp_path: Path, splits: Splits) -> None:
    config = Config(output_dir=tmp_path, learning_rate=1e-4)
    begin(config, splits)
    begin(dataclasses.replace(config, resume=True, eval_examples=5, checkpoint_minutes=1, register=False), splits)
    with pytest.raises(TrainingError, match=r"other settings \(learning_rate, seed\): give it the flags"):
        begin(dataclasses.replace(config, resume=True, learning_rate=2e-4, seed=7), splits)
    less = Splits(splits.train.select(range(10)), splits.test)
    with pytest.raises(TrainingError, match=r"dataset \(its rows\)"):
        begin(dataclasses.replace(config, resume=True), less)


def test_an_output_directory_that_cannot_be_made_is_told(tmp_path: Path, splits: Splits) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file/run cannot be made: Not a directory"):
        begin(Config(output_dir=tmp_path / "file/run"), splits)
    with pytest.raises(TrainingError, match="file cannot be made: File exists"):
        begin(Config(output_dir=tmp_path / "file"), splits)


def test_nothing_to_resume_is_said(tmp_path: Path, splits: Splits, capsys: pytest.CaptureFixture[str]) -> None:
    assert begin(Config(output_dir=tmp_path / "new", resume=True), splits) == {}
    assert "nothing to resume" in capsys.readouterr().out
