"""A part of the benchmark: a function that runs in a process of its own. That it cannot run, fails or takes too long is a result too."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.random_base import save_random_gpt2
from benchmarks.serving.process import PROJECT, end
from benchmarks.train import random_gpt2

Result = dict[str, Any]


class Skipped(Exception):
    """A part cannot run here: its message says why."""


@dataclass(frozen=True)
class Options:
    """What all parts share: the flags of the command."""

    base_model: str | None
    dataset: str | None
    directory: Path
    quick: bool

    @property
    def flags(self) -> list[str]:
        """The command line of these options."""
        sources = {"--base-model": self.base_model, "--dataset": self.dataset, "--directory": str(self.directory)}
        given = [word for flag, value in sources.items() if value is not None for word in (flag, value)]
        return given + ["--quick"] * self.quick

    def model(self) -> str:
        """Return the model whose speed is measured: the given one, or GPT-2's architecture with random weights; tiny if `quick`."""
        if self.base_model:
            return self.base_model
        if not self.quick:
            return random_gpt2()
        tiny = self.directory / "tiny-gpt2"
        if not (tiny / "model.safetensors").exists():
            save_random_gpt2(tiny, 1000, vocab_size=1000, n_positions=1024, n_embd=64, n_layer=2, n_head=2)
        return str(tiny)


@dataclass(frozen=True)
class Part:
    """A part and its time limit in seconds."""

    limit: float
    measure: Callable[[Options], Result]


def run_part(name: str, limit: float, options: Options) -> Result:
    """Run a part in a separate process for up to `limit` seconds. Return its result, or why there is none, as `failed` or `skipped`."""
    if limit <= 0:
        return {"skipped": "the time was over"}
    result, log = _files(name, options.directory)
    log.parent.mkdir(parents=True, exist_ok=True)
    result.unlink(missing_ok=True)
    with log.open("w") as out:
        command = [sys.executable, "-m", "benchmarks.gpu", "--part", name, *options.flags]
        process = subprocess.Popen(command, cwd=PROJECT, stdout=out, stderr=out, start_new_session=True)
        try:
            process.wait(limit)
        except subprocess.TimeoutExpired:
            return {"failed": f"took longer than {limit:.0f} s"}
        finally:
            end(process)
    if result.exists():
        return dict(json.loads(result.read_text(encoding="utf-8")))
    lines = log.read_text(encoding="utf-8", errors="replace").split("\n")
    return {"failed": next((line.strip() for line in reversed(lines) if line.strip()), f"exit status {process.returncode}")}


def carry_out(name: str, part: Part, options: Options) -> None:
    """Run a part in this process, and leave its result where `run_part` looks for it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # ends the part's servers on the way out
    try:
        found = part.measure(options)
    except Skipped as reason:
        found = {"skipped": str(reason)}
    _files(name, options.directory)[0].write_text(json.dumps(found), encoding="utf-8")


def _files(name: str, directory: Path) -> tuple[Path, Path]:
    stem = name.replace("/", "-").replace(", ", "-").replace(" ", "-")
    return directory / "parts" / f"{stem}.json", directory / "parts" / f"{stem}.log"
