"""Measure training and serving on one GPU: `make bench-gpu`, half an hour at most.

    machine      what it is, and its rate of a bf16 matrix product
    training     rows/s and tokens/s of Trigen, with contexts shared and repeated, and of TRL's SFTTrainer in three configurations
    SQuAD        train.py for three epochs, with GPT-2
    serving      completions/s with 1, 8, 32 and 128 clients, of the service and of vLLM

Each part runs in a process of its own, with a time limit. What is not installed or cannot be reached is left out, and the report says so.
Without --base-model, SQuAD takes GPT-2 from the Hub, and everything else its architecture with random weights. Without --dataset, SQuAD
comes from the Hub, and the training's rate is measured on data/quickstart.

Writes report.md, gpu.png, results.json and the parts' logs to runs/bench-gpu/. --quick does the same in a minute or two with a tiny
model, also on a CPU: to see that everything runs.
"""

import argparse
import functools
import json
import os
import shutil
import sys
import time
from pathlib import Path

from benchmarks.gpu import machine, serving, training
from benchmarks.gpu.parts import Options, Part, carry_out, run_part
from benchmarks.gpu.report import write_report
from benchmarks.serving.process import PROJECT

PARTS: dict[str, Part] = {
    "machine": Part(90, machine.describe),
    "training/trigen": Part(200, functools.partial(training.trigen, share_context=True)),
    "training/trigen, contexts repeated": Part(200, functools.partial(training.trigen, share_context=False)),
    "training/TRL, padded": Part(150, functools.partial(training.trl, variant="padded")),
    "training/TRL, packed": Part(150, functools.partial(training.trl, variant="packed")),
    "training/TRL, packed, Liger": Part(150, functools.partial(training.trl, variant="packed, Liger")),
    "SQuAD": Part(700, training.squad),
    "serving/trigen": Part(240, functools.partial(serving.measure, name="trigen")),
    "serving/vLLM": Part(240, functools.partial(serving.measure, name="vLLM")),
}
"""The parts, in this order, with their time limits in seconds. A part whose limit would pass the end of all gets what is left."""


def main() -> None:
    """Run all parts and write the report, or run one of them."""
    parser = argparse.ArgumentParser(prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a causal LM: a directory or a Hub id")
    parser.add_argument("--dataset", help="questions in SQuAD's schema: a directory or a Hub id")
    parser.add_argument("--minutes", type=float, default=30, help="the time limit of all parts together (default: 30)")
    parser.add_argument("--directory", type=Path, default=PROJECT / "runs/bench-gpu", help="where to write (default: runs/bench-gpu)")
    parser.add_argument("--quick", action="store_true", help="a tiny model and a few seconds for each part, to see that everything runs")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model, dataset = _absolute(arguments.base_model), _absolute(arguments.dataset)
    options = Options(model, dataset, arguments.directory.resolve(), arguments.quick)
    if arguments.part:
        carry_out(arguments.part, PARTS[arguments.part], options)
        return
    shutil.rmtree(options.directory / "serving", ignore_errors=True)  # an earlier run's model
    options.directory.mkdir(parents=True, exist_ok=True)
    deadline, results = time.monotonic() + 60 * arguments.minutes, {}
    for name, part in PARTS.items():
        print(f"{name} …", file=sys.stderr, flush=True)
        started = time.monotonic()
        results[name] = run_part(name, min(part.limit, deadline - started), options) | {"wall_seconds": time.monotonic() - started}
        (options.directory / "results.json").write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")
    print(write_report(options.directory, results))


def _absolute(source: str | None) -> str | None:
    """Return a path as the parts find it, which run in the project's root. A Hub id stays as it is."""
    return str(Path(source).resolve()) if source and Path(source).exists() else source


if __name__ == "__main__":
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # as in benchmarks/train.py
    main()
