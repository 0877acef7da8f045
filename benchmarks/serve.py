"""The service against what one would take instead, over HTTP: `make bench-serve`, about 25 minutes.

Same weights, same machine, same run; GPT-2 small's architecture with random weights, which end no text, so that all write as much. Each
server has its own precision: trigen and openvino-genai int8 weights, the peers bf16.

    completions   prompts of 16 tokens, 64 to 100 new ones, sampled; streaming where the server can
    questions     passages of 150 words, each new; 6 new tokens, greedy
    one passage   the same, about one passage

Each server alone, with 1, 8 and 32 requests at once: every client asks again as soon as it is answered. Beside them, without HTTP,
openvino-genai itself, which nothing above it can surpass, and transformers' `generate`. Writes runs/bench-serve/serve.md, .json and .png.
"""

import argparse
import asyncio
import os
import shutil
import statistics
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import uvloop
from tqdm import tqdm

from benchmarks.serving.client import Measured, put, speak_bigram
from benchmarks.serving.in_process import Put, in_process
from benchmarks.serving.loads import LOADS
from benchmarks.serving.process import PROJECT
from benchmarks.serving.report import BESIDE, write
from benchmarks.serving.servers import Server, memory, running, servers
from benchmarks.train import random_gpt2

DIRECTORY = PROJECT / "runs/bench-serve"
AT_ONCE = (1, 8, 32)
ROUNDS = {"completions": 10, "questions": 4, "one passage": 4}
TURN_SECONDS = 0.375
"""Of the seconds of a load, what a turn takes."""
CELLS = [(load, at_once) for load in LOADS for at_once in AT_ONCE if at_once == 1 or load != "one passage"]
GENERATE = ("generate-fp32", "generate-bf16")


def prepare(directory: Path, base_model: str) -> Path:
    """An artifact for the LLM, as `train.py` would make it of `base_model`, and a store with it and with the two word models of the
    quickstart; returns the artifact's directory.
    """
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.environ["BENTOML_HOME"] = str(directory / "bentoml")  # before the store is imported
    from models.store import Artifact, register
    from training.config import Config
    from training.data.selection import contexts
    from training.data.squad import load_splits
    from training.export.artifact import save_artifact
    from training.fine_tuning.base_model import load_base
    from training.word_models.fitting import fit_bigram, fit_rnn

    model, tokenizer = load_base(base_model, 1024)
    save_artifact(model, tokenizer, directory / "llm", Config.prompt)
    texts = contexts(load_splits("data/quickstart").train)
    fit_bigram(texts, texts[:1], directory / "bigram")
    fit_rnn(texts, texts[:1], directory / "rnn", 30, 0)
    register({name: Artifact(directory / name, {}) for name in ("bigram", "rnn", "llm")})
    return directory / "llm"


class Comparison:
    """The loads, put to one contestant after the other; a speed that varies by a tenth from minute to minute is told apart from theirs by
    turns: openvino-genai and trigen take every load by turns, `ROUNDS` times, each as often the first as the other, and
    transformers' `generate` joins them where questions come one at a time.
    """

    def __init__(self, artifact: Path, directory: Path, seconds: float, bar: "tqdm[Any]") -> None:
        self.artifact, self.directory, self.seconds, self.bar = artifact, directory, seconds, bar
        self.results: dict[str, dict[str, Any]] = {}

    def service(self, server: Server) -> None:
        """Trigen beside what runs in process; and what the bigram does while 32 wait for the LLM."""
        with ExitStack() as stack:
            url, process = stack.enter_context(running(server, self.directory / "trigen.log"))
            raw, *generate = (stack.enter_context(in_process(name, self.artifact)) for name in ("raw", *GENERATE))
            pair = [("raw", raw), ("trigen", self._over_http(server, url, process))]
            for load, at_once in CELLS:
                turn = pair + (list(zip(GENERATE, generate, strict=True)) if (load, at_once) == ("questions", 1) else [])
                rounds: dict[str, list[dict[str, float]]] = {name: [] for name, _ in turn}
                for number in range(ROUNDS[load]):
                    for name, each in turn if number % 2 else turn[::-1]:
                        rounds[name].append(each(load, at_once, TURN_SECONDS * self.seconds))
                for name, summaries in rounds.items():
                    self._note(name, load, at_once, pooled(summaries))
            self.results["trigen"][BESIDE] = uvloop.run(_beside(url, server, self.artifact, self.seconds)).summary()

    def peer(self, name: str, server: Server) -> None:
        """Another server. What fails is told, and does not end the run."""
        if server.missing:
            tqdm.write(f"{name}: {server.command[0]} is not installed; left out")
            return
        try:
            with running(server, self.directory / f"{name}.log") as (url, process):
                put = self._over_http(server, url, process)
                for load, at_once in CELLS:
                    try:
                        self._note(name, load, at_once, put(load, at_once, self.seconds))
                    except Exception as error:
                        tqdm.write(f"{name}, {load}, {at_once} at once: {error!r}")
        except RuntimeError as error:
            tqdm.write(f"{name}: {error}")

    def _over_http(self, server: Server, url: str, process: psutil.Process) -> Put:
        loads = {name: make(self.artifact) for name, make in LOADS.items()}  # which go on, so that no prompt comes twice

        def over_http(load: str, at_once: int, seconds: float) -> dict[str, float]:
            measured = uvloop.run(put(url, server.speak, loads[load], at_once, seconds))
            return measured.summary() | {"gb": memory(process)}

        return over_http

    def _note(self, name: str, load: str, at_once: int, measured: dict[str, float]) -> None:
        self.results.setdefault(name, {}).setdefault(load, {})[at_once] = measured
        self.bar.set_postfix_str(f"{name}, {load}, {at_once} at once: {measured['tokens_per_second']:,.0f} tokens/s")
        self.bar.update()


def pooled(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Several measures of the same as one: sums of what is counted, means of the rest."""
    return {
        name: sum(each[name] for each in rounds) if name in ("answers", "cut_off") else statistics.fmean(each[name] for each in rounds)
        for name in rounds[0]
    }


async def _beside(url: str, server: Server, artifact: Path, seconds: float) -> Measured:
    saturating = asyncio.create_task(put(url, server.speak, LOADS["completions"](artifact), AT_ONCE[-1], seconds))
    await asyncio.sleep(2)
    measured = await put(url, speak_bigram, LOADS["completions"](artifact), 1, seconds - 4)
    await saturating
    return measured


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a directory; GPT-2 small with random weights by default")
    parser.add_argument("--seconds", type=float, default=16, help="of each load (default: 16)")
    parser.add_argument("--only", nargs="*", default=None, help="names of peers; all by default")
    arguments = parser.parse_args()
    artifact = prepare(DIRECTORY, arguments.base_model or random_gpt2())
    peers = servers(artifact, DIRECTORY / "bentoml")
    trigen = peers.pop("trigen")
    chosen = [name for name in peers if arguments.only is None or name in arguments.only]
    with tqdm(total=(2 + len(chosen)) * len(CELLS) + len(GENERATE), desc="serving", unit="load") as bar:
        comparison = Comparison(artifact, DIRECTORY, arguments.seconds, bar)
        comparison.service(trigen)
        for name in chosen:
            comparison.peer(name, peers[name])
    print(write(DIRECTORY, comparison.results))


if __name__ == "__main__":
    main()
