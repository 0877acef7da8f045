"""What is measured without HTTP: openvino-genai by itself, the ceiling, and transformers' `generate`, one prompt after the other.

A process of its own, started by `in_process`: a line of JSON for each load comes in, and one with its measures goes out.
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

from benchmarks.serving.client import Measured, Outcome
from benchmarks.serving.loads import GREEDY, LOADS, SAMPLING, Ask
from models.engines.openvino_messages import OpenVINOConfig

Put = Callable[[str, int, float], dict[str, float]]
"""Puts a load, so many requests at once, for so many seconds; gives `Measured.summary` and the memory in GB."""


class Raw:
    """openvino-genai's pipeline as the service configures it, fed with token ids and read as token ids."""

    def __init__(self, artifact: Path, config: OpenVINOConfig = OpenVINOConfig()) -> None:
        from models.engines.openvino_process import load_pipeline
        from models.engines.tokenization import load_tokenizer

        self.pipeline, self.tokenizer, self.count = load_pipeline(artifact, config), load_tokenizer(artifact), 0

    def put(self, load: Iterator[Ask], at_once: int, seconds: float) -> Measured:
        """See `Put`."""
        running: list[tuple[Any, Outcome]] = []
        measured, began = Measured(seconds), 0.0
        while not began or time.perf_counter() - began < seconds:
            while len(running) < at_once:
                running.append(self._add(next(load)))
                measured.outcomes.append(running[-1][1])
            self.pipeline.step()
            for handle, outcome in running:
                while handle.can_read():
                    outcome.note(sum(len(output.generated_ids) for output in handle.read().values()))
                if handle.get_status().name == "FINISHED":
                    outcome.ended = time.perf_counter()
            running = [(handle, outcome) for handle, outcome in running if not outcome.ended]
            if not began and sum(bool(outcome.ended) for outcome in measured.outcomes) >= min(2, at_once):
                self._drop(running)
                running, measured.outcomes, began = [], [], time.perf_counter()  # the first two do not count
        measured.seconds = time.perf_counter() - began
        self._drop(running)
        return measured

    def _add(self, ask: Ask) -> tuple[Any, Outcome]:
        import numpy as np
        import openvino as ov

        from models.base import SamplingParams
        from models.engines.openvino_process import generation_config

        params = SamplingParams(ask.length, **(GREEDY if ask.question else SAMPLING), seed=ask.seed)
        ids = ov.Tensor(np.array([self.tokenizer.encode(ask.prompt).ids]))
        self.count += 1
        outcome = Outcome(time.perf_counter())
        return self.pipeline.add_request(self.count, ids, generation_config(params, frozenset())), outcome

    def _drop(self, running: list[tuple[Any, Outcome]]) -> None:
        for handle, _ in running:
            handle.cancel()
        while self.pipeline.has_non_finished_requests():
            self.pipeline.step()


class Generate:
    """Transformers' `generate`, greedy, one prompt at a time."""

    def __init__(self, artifact: Path, *, bf16: bool) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.tokenizer = AutoTokenizer.from_pretrained(artifact)
        self.model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.bfloat16 if bf16 else torch.float32).eval()

    def put(self, load: Iterator[Ask], at_once: int, seconds: float) -> Measured:
        """See `Put`."""
        if at_once != 1:
            raise ValueError("one at a time")
        self._answer(next(load))  # does not count
        measured, began = Measured(seconds), time.perf_counter()
        while time.perf_counter() - began < seconds:
            measured.outcomes.append(self._answer(next(load)))
        measured.seconds = time.perf_counter() - began
        return measured

    def _answer(self, ask: Ask) -> Outcome:
        import torch

        outcome = Outcome(time.perf_counter())
        inputs = self.tokenizer(ask.prompt, return_tensors="pt")
        with torch.inference_mode():
            output = self.model.generate(**inputs, max_new_tokens=ask.length, do_sample=False, pad_token_id=0)
        outcome.note(output.shape[1] - inputs["input_ids"].shape[1])
        outcome.ended = time.perf_counter()
        return outcome


@contextmanager
def in_process(contestant: str, artifact: Path) -> Iterator[Put]:
    """One of `CONTESTANTS` in a process of its own, as long as it is needed."""
    command = [sys.executable, "-m", __name__, contestant, str(artifact)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        tell, hear = process.stdin, process.stdout

        def put(load: str, at_once: int, seconds: float) -> dict[str, float]:
            print(json.dumps([load, at_once, seconds]), file=tell, flush=True)
            if not (line := hear.readline()):
                raise RuntimeError(f"{contestant} has ended with {process.wait()}")
            return dict(json.loads(line))

        yield put
        tell.close()


CONTESTANTS: dict[str, Callable[[Path], Raw | Generate]] = {
    "raw": Raw,
    "generate-fp32": lambda artifact: Generate(artifact, bf16=False),
    "generate-bf16": lambda artifact: Generate(artifact, bf16=True),
}


def main() -> None:
    """Serve `in_process`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("contestant", choices=CONTESTANTS)
    parser.add_argument("artifact", type=Path)
    arguments = parser.parse_args()
    contestant = CONTESTANTS[arguments.contestant](arguments.artifact)
    loads = {name: make(arguments.artifact) for name, make in LOADS.items()}  # which go on, so that no prompt comes twice
    for line in sys.stdin:
        load, at_once, seconds = json.loads(line)
        measured = contestant.put(loads[load], at_once, seconds).summary()
        print(json.dumps(measured | {"gb": psutil.Process().memory_full_info().pss / 1e9}), flush=True)


if __name__ == "__main__":
    main()
