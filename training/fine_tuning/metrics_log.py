"""What a run writes down as it goes: `metrics.jsonl`, and TensorBoard's curves."""

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter


class MetricsLog:
    """The curves of a fine-tuning in `directory`. Only the main process writes."""

    def __init__(self, directory: Path, writes: bool = True) -> None:
        self.path, self.writes = directory / "metrics.jsonl", writes
        self._board: SummaryWriter | None = None
        if writes:
            directory.mkdir(parents=True, exist_ok=True)

    def log(self, kind: str, step: int, **values: Any) -> None:
        """Append a line to `metrics.jsonl`, and its numbers to TensorBoard as `kind/name`."""
        if not self.writes:
            return
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"kind": kind, "step": step} | values, ensure_ascii=False) + "\n")
        board = self._open(step)
        for name, value in values.items():
            if isinstance(value, int | float):
                board.add_scalar(f"{kind}/{name}", value, step)
            else:
                board.add_text(f"{kind}/{name}", json.dumps(value, ensure_ascii=False, indent=2), step)

    def _open(self, step: int) -> SummaryWriter:
        if self._board is None:  # what an interrupted run drew beyond this step is hidden
            self._board = SummaryWriter(str(self.path.parent / "tensorboard"), purge_step=step)
        return self._board

    def read(self, kind: str) -> list[dict[str, Any]]:
        """The lines of a kind so far."""
        if not self.path.exists():
            return []
        lines = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line["kind"] == kind]

    def cut(self, steps: int, validations: int) -> None:
        """Forget what came after a checkpoint: a resumed run writes it anew."""
        if not self.writes or not self.path.exists():
            return
        kept, seen = [], 0
        for line in self.path.read_text(encoding="utf-8").splitlines(keepends=True):
            if not line.endswith("\n"):  # the run was killed while it wrote
                break
            record = json.loads(line)
            seen += record["kind"] == "validation"
            later = record["kind"] == "test" or (record["kind"] == "validation" and seen > validations)
            if record["step"] <= steps and not later:
                kept.append(line)
        self.path.write_text("".join(kept), encoding="utf-8")

    def close(self) -> None:
        """Write what TensorBoard still holds back."""
        if self._board is not None:
            self._board.close()
