"""The directory of a run."""

import dataclasses
import json
from pathlib import Path

import pytest

from tests.conftest import QUICKSTART
from training.config import PRESETS, Config, parse
from training.data.squad import Splits, load_splits
from training.errors import TrainingError
from training.hub import SMOLLM2_DIRECTORY
from training.run import prepare_run, read_config, write_metrics


@pytest.fixture(scope="module")
def splits() -> Splits:
    return load_splits(str(QUICKSTART))


def test_resuming_keeps_finished_models_and_starting_over_removes_them(tmp_path: Path, splits: Splits) -> None:
    config = Config(output_dir=tmp_path, only=("bigram", "rnn"))
    assert prepare_run(config, splits) == {}
    (tmp_path / "bigram").mkdir()
    write_metrics({"bigram": {"bits_per_byte": 5.0}, "rnn": {"bits_per_byte": 4.0}}, tmp_path)
    # The LSTM's directory is missing, so only the bigram is finished.
    assert prepare_run(dataclasses.replace(config, resume=True), splits) == {"bigram": {"bits_per_byte": 5.0}}
    assert prepare_run(config, splits) == {}
    assert not (tmp_path / "bigram").exists()
    assert json.loads((tmp_path / "config.json").read_text())["configuration"]["only"] == ["bigram", "rnn"]


def test_starting_over_with_some_models_leaves_no_checkpoint_of_the_others_to_resume(tmp_path: Path, splits: Splits) -> None:
    config = Config(output_dir=tmp_path)
    prepare_run(config, splits)
    checkpoints = [tmp_path / path / "step-00000001" for path in ("fine-tuning/checkpoints", "rnn/checkpoints")]
    for checkpoint in checkpoints:
        checkpoint.mkdir(parents=True)
    prepare_run(dataclasses.replace(config, resume=True), splits)
    assert all(checkpoint.exists() for checkpoint in checkpoints)
    prepare_run(dataclasses.replace(config, only=("bigram",), seed=1), splits)
    assert prepare_run(dataclasses.replace(config, seed=1, resume=True), splits) == {}  # the settings of the last run
    assert not any(checkpoint.exists() for checkpoint in checkpoints)


def test_settings_that_affect_training_may_not_change_on_resume(tmp_path: Path, splits: Splits) -> None:
    config = Config(output_dir=tmp_path, learning_rate=1e-4)
    prepare_run(config, splits)
    prepare_run(dataclasses.replace(config, resume=True, eval_examples=5, checkpoint_minutes=1, register=False), splits)
    with pytest.raises(TrainingError, match=r"other settings \(learning_rate, seed\): give it --config .*/config.json"):
        prepare_run(dataclasses.replace(config, resume=True, learning_rate=2e-4, seed=7), splits)
    smaller = Splits(splits.train.select(range(10)), splits.test)
    with pytest.raises(TrainingError, match=r"dataset \(its rows\)"):
        prepare_run(dataclasses.replace(config, resume=True), smaller)


def test_a_run_whose_preset_was_renamed_can_be_resumed(tmp_path: Path, splits: Splits) -> None:
    config = Config(output_dir=tmp_path)
    prepare_run(config, splits)
    old = json.loads((tmp_path / "config.json").read_text())
    old["configuration"]["preset"] = "an earlier name"
    (tmp_path / "config.json").write_text(json.dumps(old))
    assert prepare_run(dataclasses.replace(config, resume=True), splits) == {}


def test_an_output_directory_that_cannot_be_created_is_an_error(tmp_path: Path, splits: Splits) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TrainingError, match="file/run cannot be created: Not a directory"):
        prepare_run(Config(output_dir=tmp_path / "file/run"), splits)
    with pytest.raises(TrainingError, match="file cannot be created: File exists"):
        prepare_run(Config(output_dir=tmp_path / "file"), splits)


def test_resuming_without_an_earlier_run_starts_from_the_beginning(
    tmp_path: Path, splits: Splits, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare_run(Config(output_dir=tmp_path / "new", resume=True), splits) == {}
    assert "nothing to resume" in capsys.readouterr().out


def test_a_runs_config_repeats_the_run_elsewhere(tmp_path: Path, splits: Splits) -> None:
    first = dataclasses.replace(
        PRESETS["quickstart"], base_model=str(SMOLLM2_DIRECTORY), dataset=str(QUICKSTART), only=("bigram",), seed=7, output_dir=tmp_path
    )
    prepare_run(dataclasses.replace(first, resume=True), splits)
    file = tmp_path / "config.json"
    again = parse(["--config", str(file), "--output-dir", "runs/again"])
    # The base model and the data set are named as on any machine.
    there = dataclasses.replace(first, base_model="smollm2", dataset="data/quickstart")
    assert again == dataclasses.replace(there, config=file, output_dir=Path("runs/again"))
    assert parse(["--config", str(file)]).output_dir == Config().output_dir
    assert read_config(tmp_path) == dataclasses.replace(first, dataset="data/quickstart")


def test_repeating_a_run_does_not_replace_it_but_can_resume_it(tmp_path: Path, splits: Splits) -> None:
    prepare_run(Config(output_dir=tmp_path, only=("bigram",), seed=7), splits)
    (tmp_path / "bigram").mkdir()
    flags = ["--config", str(tmp_path / "config.json"), "--output-dir", str(tmp_path)]
    with pytest.raises(TrainingError, match="would be replaced; give another --output-dir, or --resume"):
        prepare_run(parse(flags), splits)
    assert (tmp_path / "bigram").exists()
    prepare_run(parse([*flags, "--resume"]), splits)
