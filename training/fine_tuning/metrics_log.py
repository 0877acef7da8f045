"""The metrics that are logged during fine-tuning: `metrics.jsonl`, and experiment trackers such as TensorBoard."""

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from transformers.utils.generic import flatten_dict

from training.errors import TrainingError, first_line

PROJECT = "trigen"
"""The project's name in the trackers, where they group runs by project."""


class MetricsLog:
    """Logs to `metrics.jsonl` in `directory` and to the accelerator's trackers. Only the main process writes."""

    def __init__(self, directory: Path, accelerator: Accelerator, settings: dict[str, Any] | None = None) -> None:
        self.path, self.accelerator, self.settings = directory / "metrics.jsonl", accelerator, settings
        if accelerator.is_main_process:
            directory.mkdir(parents=True, exist_ok=True)

    def log(self, kind: str, step: int, **values: Any) -> None:
        """Append a line to `metrics.jsonl`, and give its values to the trackers as `kind/name`: numbers as they are, the rest as text.

        Raises TrainingError if a tracker cannot be started.
        """
        if not self.accelerator.is_main_process:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values, ensure_ascii=False) + "\n")
        if not self.accelerator.trackers:
            self._start_trackers(step)
        self.accelerator.log(
            {
                name: value if isinstance(value, int | float) else json.dumps(value, ensure_ascii=False, indent=2)
                for name, value in flatten_dict({kind: values}, delimiter="/").items()
            },
            step=step,
        )

    def _start_trackers(self, step: int) -> None:
        """Start the trackers, if any were chosen. TensorBoard hides what an interrupted run has written from `step` on."""
        try:
            self.accelerator.init_trackers(PROJECT, self.settings, {"tensorboard": {"purge_step": step}})
        except Exception as error:  # of the trackers' own types: no login, no server
            raise TrainingError(f"--trackers: a tracker cannot be started ({first_line(error)})") from error

    def read(self, kind: str) -> list[dict[str, Any]]:
        """Return the lines of a kind so far."""
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def curve(self, points: int = 40) -> list[dict[str, float]]:
        """Return the training's loss in up to `points` parts: its mean over the steps of each, and the tokens read by its end.

        A part has five steps or more, where there are enough: single steps differ, because some hold plain text.
        """
        steps = self.read("train")
        points = min(points, max(2, len(steps) // 5))
        tokens = list(itertools.accumulate(line["tokens_per_second"] * line["seconds"] for line in steps))
        bounds = sorted({round(len(steps) * part / points) for part in range(points + 1)})
        return [
            {"tokens": round(tokens[end - 1]), "loss": statistics.fmean(line["loss"] for line in steps[start:end])}
            for start, end in itertools.pairwise(bounds)
        ]

    def truncate(self, steps: int, validations: int) -> None:
        """Remove everything logged after `steps` steps and `validations` validations: a run resumed there logs it again."""
        if not self.accelerator.is_main_process or not self.path.exists():
            return
        kept, validations_seen = [], 0
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):  # the run was killed while it wrote this line
                break
            values = json.loads(line)
            validations_seen += values["kind"] == "validation"
            is_later = values["kind"] == "test" or (values["kind"] == "validation" and validations_seen > validations)
            if values["step"] <= steps and not is_later:
                kept.append(line)
        self.path.write_text("".join(kept), encoding="utf-8")

    def close(self) -> None:
        """End the run in the trackers."""
        for tracker in self.accelerator.trackers:
            tracker.finish()
