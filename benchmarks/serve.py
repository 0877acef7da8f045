"""The service against what one would take instead, over HTTP: `make bench-serve` (30 minutes at most).

Same weights, same machine, same run; GPT-2 small's architecture with random weights, which end no text, so that all write as much. Each
server has its own precision: trigen and openvino-genai int8 weights, the peers bf16.

    completions   prompts of 16 tokens, 64 to 100 new ones, sampled; streaming where the server can
    questions     passages of 150 words, each new; 16 new tokens, greedy
    one passage   the same, about one passage

Each server alone, with 1, 8 and 32 requests at once: every client asks again as soon as it is answered. Beside them, without HTTP,
openvino-genai itself, which nothing above it can surpass, and transformers' `generate`. Writes runs/bench-serve/serve.md, .json and .png.
"""

import argparse
import asyncio
import os
import shutil
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.contestants import run_contestant
from benchmarks.serving.client import Measured, put, speak_bigram
from benchmarks.serving.loads import LOADS
from benchmarks.serving.report import write
from benchmarks.serving.servers import PROJECT, Server, memory, running, servers
from benchmarks.train import random_gpt2

DIRECTORY = PROJECT / "runs/bench-serve"
AT_ONCE = (1, 8, 32)
QUESTIONS = "questions"


def prepare(directory: Path, base_model: str) -> Path:
    """An artifact for the LLM, as `train.py` would make it of `base_model`, and a store with it and with the two word models of the
    quickstart; returns the artifact's directory.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.environ["BENTOML_HOME"] = str(directory / "bentoml")  # before the store is imported
    from models.store import Artifact, register
    from training.base_model import load_base
    from training.config import PRESETS
    from training.data import contexts, load_splits
    from training.qa import save_artifact
    from training.word_models import fit_bigram, fit_rnn

    model, tokenizer = load_base(base_model, 1024)
    save_artifact(model, tokenizer, directory / "llm", PRESETS["quickstart"])
    texts = contexts(load_splits("data/quickstart").train)
    fit_bigram(texts, texts[:1], directory / "bigram")
    fit_rnn(texts, texts[:1], directory / "rnn", 30, 0)
    register({name: Artifact(directory / name, {}) for name in ("bigram", "rnn", "llm")})
    return directory / "llm"


def measure(server: Server, artifact: Path, directory: Path, name: str, seconds: float, bar: "tqdm[Any]") -> dict[str, Any]:
    """All loads, by load and requests at once; and for trigen what the bigram does while 32 wait for the LLM."""
    results: dict[str, Any] = {load: {} for load in LOADS}
    with running(server, directory / f"{name}.log") as (url, process):
        for load, make in LOADS.items():
            asks = make(artifact)  # one after the other, so that no prompt comes twice and is remembered
            for at_once in (1,) if load == "one passage" else AT_ONCE:
                bar.set_postfix_str(f"{name}, {load}, {at_once} at once")
                try:
                    measured = asyncio.run(put(url, server.speak, asks, at_once, seconds))
                except Exception as error:  # it is told, and does not end the run
                    tqdm.write(f"{name}, {load}, {at_once} at once: {error!r}")
                else:
                    results[load][at_once] = measured.summary() | {"gb": memory(process)}
                bar.update()
        if name == "trigen":
            results["bigram beside 32 completions"] = asyncio.run(_beside(url, server, artifact, seconds)).summary()
    return results


async def _beside(url: str, server: Server, artifact: Path, seconds: float) -> Measured:
    saturating = asyncio.create_task(put(url, server.speak, LOADS["completions"](artifact), AT_ONCE[-1], seconds))
    await asyncio.sleep(2)
    measured = await put(url, speak_bigram, LOADS["completions"](artifact), 1, seconds - 4)
    await saturating
    return measured


def in_process(engine: str, artifact: Path, load: str, at_once: int, seconds: float) -> dict[str, Any]:
    """See `benchmarks/serving/in_process.py`."""
    given = ("--artifact", str(artifact), "--load", load, "--at-once", str(at_once), "--seconds", str(seconds))
    return run_contestant("benchmarks.serving.in_process", engine, *given)


def compare(artifact: Path, contestants: dict[str, Server], directory: Path, seconds: float) -> dict[str, dict[str, Any]]:
    """Every contestant in turn, by name."""
    inside = [("raw", load, n) for load in LOADS for n in AT_ONCE if n == 1 or load != "one passage"]
    inside += [(engine, load, 1) for engine in ("generate-fp32", "generate-bf16") for load in (QUESTIONS,)]
    results: dict[str, dict[str, Any]] = {}
    with tqdm(total=len(inside) + len(contestants) * (1 + 2 * len(AT_ONCE)), desc="serving", unit="load") as bar:
        for engine, load, at_once in inside:
            bar.set_postfix_str(f"{engine}, {load}, {at_once} at once")
            results.setdefault(engine, {}).setdefault(load, {})[at_once] = in_process(engine, artifact, load, at_once, seconds)
            bar.update()
        for name, server in contestants.items():
            if server.missing:
                tqdm.write(f"{name}: {server.command[0]} is not installed; left out")
                continue
            try:
                results[name] = measure(server, artifact, directory, name, seconds, bar)
            except RuntimeError as error:  # a peer that does not start is told of, and does not end the run
                tqdm.write(f"{name}: {error}")
    return results


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a directory; GPT-2 small with random weights by default")
    parser.add_argument("--seconds", type=float, default=20, help="of each load (default: 20)")
    parser.add_argument("--only", nargs="*", default=None, help="names of servers; all by default")
    arguments = parser.parse_args()
    artifact = prepare(DIRECTORY, arguments.base_model or random_gpt2())
    contestants = servers(artifact, DIRECTORY / "bentoml")
    chosen = {name: server for name, server in contestants.items() if arguments.only is None or name in arguments.only}
    print(write(DIRECTORY, compare(artifact, chosen, DIRECTORY, arguments.seconds)))


if __name__ == "__main__":
    main()
