"""How often the same seed gives the LLM another text: alone twice, after a restart, and among 31 others.

    python -m benchmarks.reproducibility --artifact runs/…/llm

The arithmetic of a batch may round otherwise than that of a request alone, and one token drawn otherwise changes all that follow.
"""

import argparse
import asyncio
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.serving.loads import Ask, completions
from models.base import SamplingParams
from models.engines.openvino import OpenVINOEngine
from models.engines.openvino_messages import EXACT, REPRODUCIBLE, OpenVINOConfig

AT_ONCE = 32
ARITHMETIC, CACHE, ACTIVATIONS = ((each,) for each in EXACT.properties)
CONFIGS = {
    "as served": OpenVINOConfig(),
    "arithmetic in f32": OpenVINOConfig(properties=ARITHMETIC),
    "arithmetic and cache in f32": OpenVINOConfig(properties=ARITHMETIC + CACHE),
    "activations not in int8": OpenVINOConfig(properties=ACTIVATIONS),
    "all three": EXACT,
    "one at a time, no prefix caching": REPRODUCIBLE,
}


async def texts(engine: OpenVINOEngine, asks: Sequence[Ask], at_once: int) -> list[str]:
    """The continuation of each, so many at once."""
    turns = asyncio.Semaphore(at_once)

    async def text(ask: Ask) -> str:
        params = SamplingParams(ask.length, temperature=0.8, top_p=0.95, seed=ask.seed)
        async with turns:
            return "".join([token.text async for token in engine.stream(ask.prompt, params)])

    return await asyncio.gather(*(text(ask) for ask in asks))


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--requests", type=int, default=96)
    parser.add_argument("--only", nargs="*", choices=CONFIGS, default=list(CONFIGS))
    given = parser.parse_args()
    load = completions(given.artifact)
    asks = [next(load) for _ in range(given.requests)]
    print("| | alone, again | after a restart | among 31 others | … again |")
    print("|---|---|---|---|---|", flush=True)
    for name in given.only:
        runs: list[list[str]] = []
        for turns in ((1, 1), (1, AT_ONCE, AT_ONCE)):
            with closing(OpenVINOEngine(given.artifact, CONFIGS[name])) as engine:
                runs += [asyncio.run(texts(engine, asks, at_once)) for at_once in turns]
        differ = [sum(one != other for one, other in zip(runs[0], run, strict=True)) for run in runs[1:]]
        print(f"| {name} | {' | '.join(f'{count} of {len(asks)}' for count in differ)} |", flush=True)


if __name__ == "__main__":
    main()
