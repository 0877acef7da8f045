"""Measure how the cost of serving grows: `make bench-scaling`, about seven minutes on two cores.

    limits      how fast the machine reads memory, and its rates of int8 and bf16 products: what no engine can exceed
    engine      completions with 1, 8, 32 and 128 at once, by openvino-genai itself, in process
    requests    completions with 1 to 256 at once, by the service over HTTP: tokens/s, and the time to an answer
    prompts     prompts of 16 to 4,000 tokens, one at a time: the time to the first token
    cores       the service on 1, 2, 4 and 8 cores, as far as the machine has them: completions, and a prompt of 256 tokens
    workers     the service with 1, 2, 4 and 8 workers, as far as the machine has cores: completions, questions, memory

The model is GPT-2 small with random weights and a longer context. Completions are those of benchmarks/serve.py. Writes scaling.md,
scaling.json and three plots to runs/bench-scaling/. With --only, a part's measurements replace those of an earlier run there, and the
others and the model stay.
"""

import argparse
import importlib.metadata
import json
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.gpu.machine import processor
from benchmarks.scaling import parts
from benchmarks.scaling.limits import cores
from benchmarks.scaling.parts import Options, Result
from benchmarks.scaling.report import write
from benchmarks.serve import prepare
from benchmarks.serving.process import PROJECT
from benchmarks.train import random_gpt2

PARTS: dict[str, Callable[[Options], Result]] = {
    "limits": parts.measure_limits,
    "engine": parts.measure_engine,
    "requests": parts.measure_requests,
    "prompts": parts.measure_prompts,
    "cores": parts.measure_cores,
    "workers": parts.measure_workers,
}
POSITIONS = 4_352
"""The model's context length: the longest prompt and some new tokens."""


def main() -> None:
    """Run the parts, write the report and print it."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a directory or Hub id (default: GPT-2 small with random weights)")
    parser.add_argument("--seconds", type=float, default=6, help="the duration of a load; longer with more than 64 at once (default: 6)")
    parser.add_argument("--only", nargs="+", choices=PARTS, help="the parts to measure (default: all)")
    parser.add_argument(
        "--directory", type=Path, default=PROJECT / "runs/bench-scaling", help="where to write (default: runs/bench-scaling)"
    )
    arguments = parser.parse_args()
    options = Options(arguments.directory.resolve(), arguments.seconds)
    file = options.directory / "scaling.json"
    results: Result = json.loads(file.read_text()) if arguments.only and file.exists() else {}
    if not results:
        prepare(options.directory / "store", arguments.base_model or random_gpt2(POSITIONS), rnn_seconds=1)
        results = {"machine": _machine(), "weights": parts.weights(options.artifact)}
    for name, measure in PARTS.items():
        if not arguments.only or name in arguments.only or (name == "limits" and name not in results):
            print(f"{name} …", file=sys.stderr, flush=True)
            results[name] = measure(options)
            file.write_text(json.dumps(results, indent=2) + "\n")
    print(write(options.directory, results))


def _machine() -> Result:
    return {"processor": processor(), "cores": len(cores()), "openvino": importlib.metadata.version("openvino")}


if __name__ == "__main__":
    main()
