import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from training.config import Config
from training.device import build_accelerator
from training.errors import TrainingError
from training.fine_tuning.metrics_log import MetricsLog
from training.run import hyperparameters


def test_truncating_removes_lines_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, build_accelerator())
    log.log("base", 0, bits_per_byte=1.0)
    for step in (1, 2):
        log.log("train", step, loss=float(step))
    log.log("validation", 2, f1=50.0)
    log.log("train", 3, loss=3.0)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # the process was killed while it wrote
    resumed = MetricsLog(tmp_path, build_accelerator())
    resumed.truncate(steps=2, validations=0)  # a checkpoint is written before the validation of its step
    resumed.log("validation", 2, f1=50.0)
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("base", 0), ("train", 1), ("train", 2), ("validation", 2)]


def test_processes_other_than_the_main_one_write_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "none", SimpleNamespace(is_main_process=False, trackers=[]))
    log.log("train", 1, loss=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (3, 2), (41, 8), (1000, 40)])
def test_the_curve_covers_all_steps(steps: int, parts: int, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, build_accelerator())
    for step in range(1, steps + 1):
        log.log("train", step, loss=float(step), tokens_per_second=500.0, seconds=2.0)
    log.close()
    curve = log.curve()
    assert len(curve) == parts
    assert curve[-1]["tokens"] == 1000 * steps
    ends = [0.0, *(point["tokens"] for point in curve)]
    assert sum((end - start) * point["loss"] for (start, end), point in zip(itertools.pairwise(ends), curve, strict=True)) == pytest.approx(
        1000 * sum(range(steps + 1))
    )


def read_tensorboard(directory: Path) -> Any:
    return EventAccumulator(str(directory / "trigen")).Reload()


def test_tensorboard_gets_numbers_texts_and_settings_and_hides_what_a_resumed_run_logs_again(tmp_path: Path) -> None:
    for steps in ((0, 1, 2, 3), (2, 3, 4)):  # the first run was killed after its third step, and had a checkpoint of the first
        log = MetricsLog(tmp_path, build_accelerator(["tensorboard"], tmp_path / "tensorboard"), hyperparameters(Config(seed=7)))
        for step in steps:
            log.log("train", step, loss=10.0 * len(steps) + step)
        if steps[-1] == 4:
            log.log("test", 4, f1=50.0, squad2={"auc": 0.5}, answers=[{"answer": None}])
        log.close()
    events = read_tensorboard(tmp_path / "tensorboard")
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(0, 40), (1, 41), (2, 32), (3, 33), (4, 34)]
    assert [events.Scalars(f"test/{name}")[0].value for name in ("f1", "squad2/auc")] == [50, 0.5]
    assert b'"answer": null' in events.Tensors("test/answers/text_summary")[0].tensor_proto.string_val[0]
    settings = [path.read_text() for path in (tmp_path / "tensorboard/trigen").glob("*/hparams.yml")]
    assert ["seed: 7" in text and "output_dir" not in text for text in settings] == [True, True]


def test_without_trackers_there_is_only_metrics_jsonl(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path, build_accelerator([], tmp_path / "tensorboard"))
    log.log("train", 1, loss=1.0)
    log.close()
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_tracker_that_is_missing_or_does_not_start_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    log = MetricsLog(tmp_path, build_accelerator(["tensorboard"], tmp_path / "file"))
    with pytest.raises(TrainingError, match=r"--trackers: a tracker cannot be started \(.*file.*\)$"):
        log.log("train", 1, loss=1.0)
    monkeypatch.setattr("training.device.get_available_trackers", list)
    with pytest.raises(TrainingError, match=r"^--trackers wandb mlflow: not installed; run `pip install wandb mlflow`$"):
        build_accelerator(["wandb", "mlflow"])
