"""Count how often the LLM generates a different text from the same seed: alone again, after a restart, and in a batch of 32.

    python -m benchmarks.reproducibility --artifact runs/…/llm

A batch may round differently from a single request, and one different token changes all that follow.
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.serving.loads import SampleRequest, completions
from models.base import SamplingParams
from models.engines.openvino import EXACT, REPRODUCIBLE, OpenVINOConfig, OpenVINOEngine

CONCURRENCY = 32
ARITHMETIC = (("INFERENCE_PRECISION_HINT", "f32"),)
CACHE = (("KV_CACHE_PRECISION", "f32"),)
ACTIVATIONS = (("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0"),)
CONFIGS = {
    "as served": OpenVINOConfig(),
    "arithmetic in f32": OpenVINOConfig(properties=ARITHMETIC),
    "arithmetic and cache in f32": OpenVINOConfig(properties=ARITHMETIC + CACHE),
    "activations not in int8": OpenVINOConfig(properties=ACTIVATIONS),
    "all three": EXACT,
    "one at a time, no prefix caching": REPRODUCIBLE,
}


async def generate(engine: OpenVINOEngine, requests: Sequence[SampleRequest], concurrency: int) -> list[str]:
    """Return the continuation of each prompt, with up to `concurrency` requests at once."""
    slots = asyncio.Semaphore(concurrency)

    async def continuation(request: SampleRequest) -> str:
        params = SamplingParams(request.length, temperature=0.8, top_p=0.95, seed=request.seed)
        async with slots:
            return "".join([token.text async for token in engine.stream(request.prompt, params)])

    return await asyncio.gather(*(continuation(request) for request in requests))


def main() -> None:
    """Print a table with one row for each configuration of the engine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="the directory of a fine-tuned LLM")
    parser.add_argument("--requests", type=int, default=96, help="the number of prompts (default: 96)")
    parser.add_argument("--only", nargs="*", choices=CONFIGS, default=list(CONFIGS), help="the configurations to measure; all by default")
    arguments = parser.parse_args()
    load = completions(arguments.artifact)
    requests = [next(load) for _ in range(arguments.requests)]
    print("| | alone, again | after a restart | among 31 others | among 31 others, again |")
    print("|---|---|---|---|---|", flush=True)
    for name in arguments.only:
        runs: list[list[str]] = []
        for concurrencies in ((1, 1), (1, CONCURRENCY, CONCURRENCY)):  # the engine restarts in between
            with closing(OpenVINOEngine(arguments.artifact, CONFIGS[name])) as engine:
                runs += [asyncio.run(generate(engine, requests, concurrency)) for concurrency in concurrencies]
        differing = [sum(a != b for a, b in zip(runs[0], run, strict=True)) for run in runs[1:]]
        print(f"| {name} | {' | '.join(f'{count} of {len(requests)}' for count in differing)} |", flush=True)


if __name__ == "__main__":
    main()
