import json
from pathlib import Path

from training.fine_tuning.metrics_log import MetricsLog


def test_what_came_after_a_checkpoint_is_forgotten(tmp_path: Path) -> None:
    records = MetricsLog(tmp_path)
    records.log("base", 0, bits_per_byte=1.0)
    for step in (1, 2):
        records.log("train", step, loss=float(step))
    records.log("validation", 2, f1=50.0)
    records.log("train", 3, loss=3.0)
    records.close()
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"kind": "train", "st')  # killed while it wrote
    resumed = MetricsLog(tmp_path)
    resumed.cut(steps=2, validations=0)  # a checkpoint comes before its validation
    resumed.log("validation", 2, f1=50.0)
    resumed.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["kind"], line["step"]) for line in lines] == [("base", 0), ("train", 1), ("train", 2), ("validation", 2)]


def test_other_processes_write_nothing(tmp_path: Path) -> None:
    records = MetricsLog(tmp_path / "none", writes=False)
    records.log("train", 1, loss=1.0)
    records.close()
    assert list(tmp_path.iterdir()) == []
