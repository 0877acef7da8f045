"""Measure the effect of each setting of the CPU engine on speed, answers and bits per byte, with a fine-tuned artifact.

    python -m benchmarks.engine_settings --artifact runs/…/llm --dataset DIR

Each variant differs from the service's settings in one thing and runs in a separate process. The table has the tokens/s of completions
with 1, 8 and 32 requests at once, the median time to answer a question about a new passage and about a repeated one, EM and F1, and the
bits per byte of held-out contexts. All variants together take half an hour.
"""

import argparse
import dataclasses
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from benchmarks.contestants import run_contestant
from models.engines.openvino import EXACT, REPRODUCIBLE, OpenVINOConfig

CONCURRENCIES = (1, 8, 32)
CONTEXTS = 40


@dataclass(frozen=True)
class Variant:
    """The engine's configuration and the precision of the weights."""

    config: OpenVINOConfig = OpenVINOConfig()
    weights: Literal["int4", "int8", "fp16"] = "int8"


def with_properties(int8_rows: bool | None = None, **values: str) -> Variant:
    """Return the variant with these properties of OpenVINO's CPU plugin."""
    return Variant(OpenVINOConfig(int8_rows=int8_rows, properties=tuple(values.items())))


VARIANTS = {
    "int8 weights, as served": Variant(),
    "int4 weights": Variant(weights="int4"),
    "fp16 weights": Variant(weights="fp16"),
    "activations in int8 by OpenVINO": Variant(OpenVINOConfig(int8_rows=False)),
    "activations in int8 by groups of 32": with_properties(int8_rows=False, DYNAMIC_QUANTIZATION_GROUP_SIZE="32"),
    "activations not in int8": with_properties(int8_rows=False, DYNAMIC_QUANTIZATION_GROUP_SIZE="0"),
    "arithmetic in bf16": with_properties(INFERENCE_PRECISION_HINT="bf16"),
    "arithmetic in f32": with_properties(INFERENCE_PRECISION_HINT="f32"),
    "arithmetic and cache in f32": with_properties(INFERENCE_PRECISION_HINT="f32", KV_CACHE_PRECISION="f32"),
    "all in f32": Variant(EXACT),
    "one at a time": Variant(REPRODUCIBLE),
    "cache in bf16": with_properties(KV_CACHE_PRECISION="bf16"),
    "cache in f32": with_properties(KV_CACHE_PRECISION="f32"),
    "one thread": with_properties(INFERENCE_NUM_THREADS="1"),
    "threads pinned": with_properties(ENABLE_CPU_PINNING="YES"),
    "no prefix caching": Variant(OpenVINOConfig(prefix_caching=False)),
    "steps of 64 tokens": Variant(OpenVINOConfig(step_tokens=64)),
    "steps of 1,024 tokens": Variant(OpenVINOConfig(step_tokens=1024)),
}


def measure(name: str, artifact: Path, dataset: str, questions: int, seconds: float) -> dict[str, float]:
    """Return the measurements of the variant `name`."""
    from benchmarks.serving.client import quantile
    from benchmarks.serving.in_process import RawPipeline
    from benchmarks.serving.loads import LOADS
    from models.engines.openvino import OpenVINOEngine
    from models.llm import LLM, SETTINGS_FILE
    from training.data.selection import contexts, draw
    from training.data.squad import load_splits
    from training.evaluation.answers import evaluate
    from training.export.quantization import copy_with_weights

    variant = VARIANTS[name]
    settings = json.loads((artifact / SETTINGS_FILE).read_text())
    with tempfile.TemporaryDirectory() as scratch:
        directory = Path(scratch)
        copy_with_weights(artifact, directory, variant.weights)
        result: dict[str, float] = {}
        raw = RawPipeline(directory, variant.config)
        completions = LOADS["completions"](directory)
        for concurrency in CONCURRENCIES:
            measured = raw.run_load(completions, concurrency, seconds)
            result[f"tokens_per_second_{concurrency}"] = measured.summary("completions")["tokens_per_second"]
        for load in ("questions", "one passage"):
            outcomes = raw.run_load(LOADS[load](directory), 1, seconds).outcomes
            result[f"{load} p50"] = quantile([outcome.finished - outcome.started for outcome in outcomes if outcome.finished], 50)
        del raw
        test = load_splits(dataset).test
        result["bits_per_byte"] = bits_per_byte(directory, contexts(test)[:CONTEXTS], settings["document_start"], variant.config)
        llm = LLM(OpenVINOEngine(directory, variant.config), settings["document_start"], settings["prompt_order"])
        try:
            metrics = evaluate(llm, draw(test, questions, 0))
        finally:
            llm.close()
        return result | {"exact_match": metrics["exact_match"], "f1": metrics["f1"]}


def bits_per_byte(artifact: Path, texts: Sequence[str], document_start: str, config: OpenVINOConfig) -> float:
    """Return the bits per byte of `texts` from the engine's log-probabilities; training/evaluation/bits_per_byte.py defines them."""
    import numpy as np
    import openvino as ov

    from models.base import SamplingParams
    from models.engines.openvino.batch import generation_config
    from models.engines.openvino.pipeline import load_pipeline
    from models.engines.tokenization import load_tokenizer

    # The engine returns no log-probabilities for a prefix that it reads from the cache.
    pipeline, tokenizer = load_pipeline(artifact, dataclasses.replace(config, prefix_caching=False)), load_tokenizer(artifact)
    nats = 0.0
    for index, text in enumerate(texts):
        ids = [*([tokenizer.token_to_id(document_start)] if document_start else []), *tokenizer.encode(text).ids]
        generation = generation_config(SamplingParams(1, temperature=0, cumulative_logprob=True), frozenset())
        generation.echo = True  # the output begins with the prompt's tokens and their log-probabilities
        handle = pipeline.add_request(index, ov.Tensor(np.array([ids])), generation)
        logprobs: list[float] = []
        while pipeline.has_non_finished_requests():
            pipeline.step()
        while handle.can_read():
            for output in handle.read().values():
                logprobs += output.generated_log_probs
        nats -= sum(logprobs[1 : len(ids)])
    return nats / math.log(2) / sum(len(text.encode()) for text in texts)


def main() -> None:
    """Run every variant in a separate process and print a table with one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="the directory of a fine-tuned LLM")
    parser.add_argument("--dataset", default="data/quickstart", help="a directory or Hub id in SQuAD's schema (default: data/quickstart)")
    parser.add_argument("--questions", type=int, default=300, help="the number of test questions (default: 300)")
    parser.add_argument("--seconds", type=float, default=10, help="the duration of each load (default: 10)")
    parser.add_argument("--only", nargs="*", choices=VARIANTS, default=list(VARIANTS), help="the variants to measure; all by default")
    parser.add_argument("--contestant", choices=VARIANTS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contestant:
        result = measure(arguments.contestant, arguments.artifact, arguments.dataset, arguments.questions, arguments.seconds)
        print(json.dumps(result))
        return
    flags = [f"--{name}={getattr(arguments, name)}" for name in ("artifact", "dataset", "questions", "seconds")]
    print("| | tokens/s, 1 at once | 8 | 32 | question p50, ms | about one passage | EM | F1 | bits per byte |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in arguments.only:
        try:
            print(_row(name, run_contestant("benchmarks.engine_settings", name, *flags)), flush=True)
        except Exception as error:
            print(f"{name}: {error}", file=sys.stderr)


def _row(name: str, result: dict[str, Any]) -> str:
    cells = [f"{result[f'tokens_per_second_{concurrency}']:,.0f}" for concurrency in CONCURRENCIES]
    cells += [f"{1000 * result[f'{load} p50']:,.0f}" for load in ("questions", "one passage")]
    cells += [f"{result['exact_match']:.1f}", f"{result['f1']:.1f}", f"{result['bits_per_byte']:.4f}"]
    return f"| {name} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
