"""The metrics that are logged during fine-tuning: `metrics.jsonl`, and TensorBoard's curves."""

import itertools
import json
import statistics
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """Logs to `metrics.jsonl` and `tensorboard/` in `directory`. Only the main process should have `writes` set."""

    def __init__(self, directory: Path, writes: bool = True) -> None:
        self.path, self.writes = directory / "metrics.jsonl", writes
        self._writer: SummaryWriter | None = None
        if writes:
            directory.mkdir(parents=True, exist_ok=True)

    def log(self, kind: str, step: int, **values: Any) -> None:
        """Append a line to `metrics.jsonl`, and write its values to TensorBoard as `kind/name`."""
        if not self.writes:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values, ensure_ascii=False) + "\n")
        if self._writer is None:  # purge_step hides what an interrupted run wrote from this step on
            self._writer = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=step)
        for name, value in values.items():
            if isinstance(value, int | float):
                self._writer.add_scalar(f"{kind}/{name}", value, step)
            else:
                self._writer.add_text(f"{kind}/{name}", json.dumps(value, ensure_ascii=False, indent=2), step)

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
        if not self.writes or not self.path.exists():
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
        """Flush and close TensorBoard's file."""
        if self._writer is not None:
            self._writer.close()
