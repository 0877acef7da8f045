import itertools
import json
from pathlib import Path

import pytest

from training.fine_tuning.metrics_log import MetricsLog


def test_truncating_removes_lines_after_the_checkpoint(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
    log.log("base", 0, bits_per_byte=1.0)
    for step in (1, 2):
        log.log("train", step, loss=float(step))
    log.log("validation", 2, f1=50.0)
    log.log("train", 3, loss=3.0)
    log.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # the process was killed while it wrote
    resumed = MetricsLog(tmp_path)
    resumed.truncate(steps=2, validations=0)  # a checkpoint is written before the validation of its step
    resumed.log("validation", 2, f1=50.0)
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("base", 0), ("train", 1), ("train", 2), ("validation", 2)]


def test_processes_other_than_the_main_one_write_nothing(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "none", writes=False)
    log.log("train", 1, loss=1.0)
    log.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("steps", "parts"), [(1, 1), (3, 2), (41, 8), (1000, 40)])
def test_the_curve_covers_all_steps(steps: int, parts: int, tmp_path: Path) -> None:
    log = MetricsLog(tmp_path)
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
