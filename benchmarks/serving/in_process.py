"""Run a load without HTTP: on openvino-genai itself, the service's upper limit, and on transformers' `generate`, prompt by prompt.

`in_process` starts this module as a separate process, which reads a line of JSON for each load and writes one with its metrics.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.client import LoadResult, Outcome
from benchmarks.serving.loads import GREEDY, LOADS, SAMPLING, SampleRequest
from models.engines.openvino import OpenVINOConfig

RunLoad = Callable[[str, int, float], dict[str, float]]
"""Run a load by its name, with a number of concurrent requests, for some seconds; return `LoadResult.summary` and the memory in GB."""


class RawPipeline:
    """openvino-genai's pipeline as the service configures it; its input and output are token ids."""

    def __init__(self, artifact: Path, config: OpenVINOConfig = OpenVINOConfig()) -> None:
        from models.engines.openvino.pipeline import load_pipeline
        from models.engines.tokenization import load_tokenizer

        self.pipeline, self.tokenizer, self.last_id = load_pipeline(artifact, config), load_tokenizer(artifact), 0

    def run_load(self, load: Iterator[SampleRequest], concurrency: int, seconds: float) -> LoadResult:
        """Run a load for `seconds`, after up to two warm-up requests."""
        running: list[tuple[Any, Outcome]] = []
        result, started = LoadResult(seconds), 0.0  # `started` is 0 during the warm-up
        while not started or time.perf_counter() - started < seconds:
            while len(running) < concurrency:
                running.append(self._add(next(load)))
                result.outcomes.append(running[-1][1])
            self.pipeline.step()
            for handle, outcome in running:
                while handle.can_read():
                    outcome.record(sum(len(output.generated_ids) for output in handle.read().values()))
                if handle.get_status().name == "FINISHED":
                    outcome.finished = time.perf_counter()
            running = [(handle, outcome) for handle, outcome in running if not outcome.finished]
            if not started and sum(bool(outcome.finished) for outcome in result.outcomes) >= min(2, concurrency):
                self._cancel(running)
                running, result.outcomes, started = [], [], time.perf_counter()
        result.seconds = time.perf_counter() - started
        self._cancel(running)
        return result

    def _add(self, request: SampleRequest) -> tuple[Any, Outcome]:
        import numpy as np
        import openvino as ov

        from models.base import SamplingParams
        from models.engines.openvino.batch import generation_config

        params = SamplingParams(request.length, **(GREEDY if request.question else SAMPLING), seed=request.seed)
        ids = ov.Tensor(np.array([self.tokenizer.encode(request.prompt).ids]))
        self.last_id += 1
        outcome = Outcome(time.perf_counter())
        return self.pipeline.add_request(self.last_id, ids, generation_config(params, frozenset())), outcome

    def _cancel(self, running: list[tuple[Any, Outcome]]) -> None:
        for handle, _ in running:
            handle.cancel()
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()


class TransformersGenerate:
    """Transformers' `generate`, greedy, one prompt at a time."""

    def __init__(self, artifact: Path, *, bf16: bool) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
        self.tokenizer = AutoTokenizer.from_pretrained(artifact)
        self.model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.bfloat16 if bf16 else torch.float32).eval()

    def run_load(self, load: Iterator[SampleRequest], concurrency: int, seconds: float) -> LoadResult:
        """Run a load for `seconds`, after one warm-up request. Raises ValueError unless `concurrency` is 1."""
        if concurrency != 1:
            raise ValueError("transformers' generate runs one prompt at a time")
        self._answer(next(load))
        result, started = LoadResult(seconds), time.perf_counter()
        while time.perf_counter() - started < seconds:
            result.outcomes.append(self._answer(next(load)))
        result.seconds = time.perf_counter() - started
        return result

    def _answer(self, request: SampleRequest) -> Outcome:
        import torch

        outcome = Outcome(time.perf_counter())
        inputs = self.tokenizer(request.prompt, return_tensors="pt")
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=request.length, do_sample=False, pad_token_id=0)
        outcome.record(output.shape[1] - inputs["input_ids"].shape[1])
        outcome.finished = time.perf_counter()
        return outcome


@contextmanager
def in_process(contestant: str, artifact: Path) -> Iterator[RunLoad]:
    """Start one of `CONTESTANTS` in a separate process; yield the function that runs loads on it."""
    command = [sys.executable, "-m", __name__, contestant, str(artifact)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        stdin, stdout = process.stdin, process.stdout

        def run_load(load: str, concurrency: int, seconds: float) -> dict[str, float]:
            print(json.dumps([load, concurrency, seconds]), file=stdin, flush=True)
            if not (line := stdout.readline()):
                raise RuntimeError(f"{contestant} exited with status {process.wait()}")
            return dict(json.loads(line))

        yield run_load
        stdin.close()


CONTESTANTS: dict[str, Callable[[Path], RawPipeline | TransformersGenerate]] = {
    "raw": RawPipeline,
    "generate-fp32": lambda artifact: TransformersGenerate(artifact, bf16=False),
    "generate-bf16": lambda artifact: TransformersGenerate(artifact, bf16=True),
}


def main() -> None:
    """Run the loads that `in_process` sends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("artifact", type=Path)
    arguments = parser.parse_args()
    contestant = CONTESTANTS[arguments.contestant](arguments.artifact)
    loads = {name: make(arguments.artifact) for name, make in LOADS.items()}  # kept across loads, so that no prompt repeats
    for line in sys.stdin:
        load, concurrency, seconds = json.loads(line)
        metrics = contestant.run_load(loads[load], concurrency, seconds).summary(load)
        print(json.dumps(metrics | {"gb": psutil.Process().memory_full_info().pss / 1e9}), flush=True)


if __name__ == "__main__":
    main()
