"""What is measured without HTTP: openvino-genai by itself, the ceiling, and transformers' `generate`, one prompt after the other.

Run by `benchmarks/serve.py`; prints one JSON object.
"""

import argparse
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.serving.client import Measured, Outcome
from benchmarks.serving.loads import GREEDY, LOADS, SAMPLING, Ask
from models.engines.openvino_messages import OpenVINOConfig


def raw(artifact: Path, load: Iterator[Ask], at_once: int, seconds: float, config: OpenVINOConfig = OpenVINOConfig()) -> Measured:
    """openvino-genai's pipeline as the service configures it, fed with token ids and read as token ids."""
    import numpy as np
    import openvino as ov

    from models.base import SamplingParams
    from models.engines.openvino_process import generation_config, load_pipeline
    from models.engines.text import load_tokenizer

    pipeline, tokenizer = load_pipeline(artifact, config), load_tokenizer(artifact)
    running: list[tuple[Any, Outcome]] = []
    measured, count, began = Measured(seconds), 0, 0.0

    def fill() -> None:
        nonlocal count
        while len(running) < at_once:
            ask, count = next(load), count + 1
            params = SamplingParams(ask.length, **(GREEDY if ask.question else SAMPLING), seed=ask.seed)
            ids = ov.Tensor(np.array([tokenizer.encode(ask.prompt).ids]))
            outcome = Outcome(time.perf_counter())
            running.append((pipeline.add_request(count, ids, generation_config(params, frozenset())), outcome))
            measured.outcomes.append(outcome)

    while True:
        fill()
        pipeline.step()
        for handle, outcome in running:
            while handle.can_read():
                outcome.note(sum(len(output.generated_ids) for output in handle.read().values()))
            if handle.get_status().name == "FINISHED":
                outcome.ended = time.perf_counter()
        running = [(handle, outcome) for handle, outcome in running if not outcome.ended]
        if not began and sum(bool(outcome.ended) for outcome in measured.outcomes) >= min(2, at_once):
            began, measured.outcomes = time.perf_counter(), []  # the first two do not count
            for handle, _ in running:
                handle.cancel()
            running = []
        if began and time.perf_counter() - began > seconds:
            measured.seconds = time.perf_counter() - began
            return measured


def generate(artifact: Path, load: Iterator[Ask], at_once: int, seconds: float, *, bf16: bool) -> Measured:
    """Transformers' `generate`, greedy, one prompt at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if at_once != 1:
        raise ValueError("one at a time")
    tokenizer = AutoTokenizer.from_pretrained(artifact)
    model = AutoModelForCausalLM.from_pretrained(artifact, dtype=torch.bfloat16 if bf16 else torch.float32).eval()

    def answer(ask: Ask) -> Outcome:
        outcome = Outcome(time.perf_counter())
        inputs = tokenizer(ask.prompt, return_tensors="pt")
        with torch.inference_mode():
            output = model.generate(**inputs, max_new_tokens=ask.length, do_sample=False, pad_token_id=0)
        outcome.note(output.shape[1] - inputs["input_ids"].shape[1])
        outcome.ended = time.perf_counter()
        return outcome

    answer(next(load))  # does not count
    measured, began = Measured(seconds), time.perf_counter()
    while time.perf_counter() - began < seconds:
        measured.outcomes.append(answer(next(load)))
    measured.seconds = time.perf_counter() - began
    return measured


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contestant", choices=["raw", "generate-fp32", "generate-bf16"], required=True)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--load", choices=LOADS, required=True)
    parser.add_argument("--at-once", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    arguments = parser.parse_args()
    given = (arguments.artifact, LOADS[arguments.load](arguments.artifact), arguments.at_once, arguments.seconds)
    measured = raw(*given) if arguments.contestant == "raw" else generate(*given, bf16=arguments.contestant == "generate-bf16")
    print(json.dumps(measured.summary() | {"gb": psutil.Process().memory_full_info().pss / 1e9}))


if __name__ == "__main__":
    main()
