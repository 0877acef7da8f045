"""Compare the service with its peers over HTTP: `make bench-serve`, about half an hour.

All servers run the same model on the same machine, and only one is under load at a time. The model is GPT-2 small with random weights,
which never end a text, so all generate equally many tokens. trigen, openvino-genai and llama.cpp run int8 weights, the others bf16.

    completions   prompts of 16 tokens, 64 to 100 new tokens, sampled; streamed if the server can
    questions     each about a new passage of 150 words; 6 new tokens, greedy
    one passage   the same, but all about one passage

A load runs with 1, 8 and 32 clients ("one passage" with 1 only); each sends its next request as soon as it has an answer. For comparison,
openvino-genai itself, the service's upper limit, and transformers' `generate` run without HTTP. If vLLM is installed, its own client,
`vllm bench serve`, then measures trigen, vLLM and llama.cpp with completions and questions, all greedy. Servers that are not installed are
left out. Writes serve.md, serve.json and serve.png to runs/bench-serve/.
"""

import argparse
import asyncio
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import psutil
import uvloop

from benchmarks.serving import vllm_bench
from benchmarks.serving.client import LoadResult, run_load, send_once, send_to_bigram
from benchmarks.serving.in_process import RunLoad, in_process
from benchmarks.serving.loads import LOADS
from benchmarks.serving.process import PROJECT
from benchmarks.serving.report import BIGRAM_UNDER_LOAD, Results, write
from benchmarks.serving.servers import VLLM, Server, memory, running, servers
from benchmarks.train import random_gpt2

DIRECTORY = PROJECT / "runs/bench-serve"
CONCURRENCIES = (1, 8, 32)
ROUNDS = {"completions": 10, "questions": 4, "one passage": 4}
TURN_SHARE = 0.375
"""The duration of a turn, as a share of a load's duration."""
CELLS = [(load, concurrency) for load in LOADS for concurrency in CONCURRENCIES if concurrency == 1 or load != "one passage"]
"""The pairs of load and concurrency that are measured on each server, in this order."""
GENERATE = ("generate-fp32", "generate-bf16")


def prepare(directory: Path, base_model: str, rnn_seconds: float = 30) -> Path:
    """Create a model store with `base_model` as the LLM and word models fitted to the quickstart's texts; return the LLM's artifact."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    os.environ["BENTOML_HOME"] = str(directory / "bentoml")  # before the store is imported
    from models.store.registration import Artifact, register
    from training.config import Config
    from training.data.selection import contexts
    from training.data.squad import load_splits
    from training.device import silence_libraries
    from training.export.artifact import export_for_cpu, save_artifact
    from training.fine_tuning.base_model import load_base
    from training.interruption import Interruption
    from training.word_models.fitting import fit_bigram, fit_rnn

    silence_libraries(True)
    model, tokenizer = load_base(base_model, 1024)
    save_artifact(model, tokenizer, directory / "llm", Config.prompt)
    export_for_cpu(directory / "llm")
    texts = contexts(load_splits("data/quickstart").train)
    fit_bigram(texts, texts[:1], directory / "bigram")
    fit_rnn(texts, texts[:1], Config(output_dir=directory), rnn_seconds, Interruption())
    register({name: Artifact(directory / name, {}) for name in ("bigram", "rnn", "llm")})
    return directory / "llm"


class Comparison:
    """Run the loads on one server after another and collect the results.

    The machine's speed varies by a tenth from minute to minute. openvino-genai and trigen are closer than that, so they take turns: each
    load runs `ROUNDS` times on both, and each goes first equally often. transformers' `generate` joins them for single questions.
    """

    def __init__(self, artifact: Path, directory: Path, seconds: float, total: int) -> None:
        self.artifact, self.directory, self.seconds = artifact, directory, seconds
        self.finished, self.total = 0, total
        self.results = Results()

    def measure_service(self, server: Server) -> None:
        """Measure trigen in turns with the in-process contestants, and its bigram while 32 completions keep the LLM busy."""
        with ExitStack() as stack:
            url, process = stack.enter_context(self._started("trigen", server))
            raw, *generate = (stack.enter_context(in_process(name, self.artifact)) for name in ("raw", *GENERATE))
            pair = [("raw", raw), ("trigen", self._over_http(server, url, process))]
            for load, concurrency in CELLS:
                single_question = (load, concurrency) == ("questions", 1)
                turns = pair + (list(zip(GENERATE, generate, strict=True)) if single_question else [])
                rounds: dict[str, list[dict[str, float]]] = {name: [] for name, _ in turns}
                for number in range(ROUNDS[load]):
                    for name, run in turns if number % 2 else turns[::-1]:
                        rounds[name].append(run(load, concurrency, TURN_SHARE * self.seconds))
                for name, summaries in rounds.items():
                    self._add(name, load, concurrency, pooled(summaries))
            bigram = uvloop.run(_bigram_under_load(url, server, self.artifact, self.seconds))
            self.results.loads["trigen"][BIGRAM_UNDER_LOAD] = bigram.summary("completions")
            self._measure_with_vllm("trigen", server, url)

    def measure_peer(self, name: str, server: Server) -> None:
        """Measure another server. A failure is printed and does not end the comparison."""
        if server.missing:
            _print(f"{name}: left out, {server.command[0]} is not installed")
            return
        try:
            if server.preparation:
                with (self.directory / f"{name}-preparation.log").open("w") as log:
                    subprocess.run(server.preparation, cwd=PROJECT, stdout=log, stderr=log, check=True)
            with self._started(name, server) as (url, process):
                run = self._over_http(server, url, process)
                for load, concurrency in CELLS:
                    try:
                        self._add(name, load, concurrency, run(load, concurrency, self.seconds))
                    except Exception as error:
                        _print(f"{name}, {load}, {concurrency} at once: {error!r}")
                self._measure_with_vllm(name, server, url)
        except Exception as error:
            _print(f"{name}: {type(error).__name__}: {error}")

    @contextmanager
    def _started(self, name: str, server: Server) -> Iterator[tuple[str, psutil.Process]]:
        """Start a server and record how long it takes until it is ready and until its first token, and its memory then."""
        request = replace(next(LOADS["completions"](self.artifact)), length=1)
        started = time.perf_counter()
        with running(server, self.directory / f"{name}.log") as (url, process):
            ready = time.perf_counter() - started
            uvloop.run(send_once(url, server.send, request))
            first_token = time.perf_counter() - started
            self.results.starts[name] = {"ready": ready, "first_token": first_token, "gb": memory(process)}
            yield url, process

    def _measure_with_vllm(self, name: str, server: Server, url: str) -> None:
        """Measure a server with vLLM's client, if there is one and the server has the API for it. A failure is printed."""
        python = VLLM / "python"
        if server.bench_flags is None or not python.exists():
            return
        try:
            directory = self.directory / f"{name}-vllm-bench"
            self.results.vllm_bench[name] = vllm_bench.measure(python, url, self.artifact, server.bench_flags, self.seconds, directory)
        except subprocess.SubprocessError as error:
            _print(f"{name}, vLLM's client: {error}")

    def _over_http(self, server: Server, url: str, process: psutil.Process) -> RunLoad:
        loads = {name: make(self.artifact) for name, make in LOADS.items()}  # kept across loads, so that no prompt repeats

        def run(load: str, concurrency: int, seconds: float) -> dict[str, float]:
            result = uvloop.run(run_load(url, server.send, loads[load], concurrency, seconds))
            return result.summary(load) | {"gb": memory(process)}

        return run

    def _add(self, name: str, load: str, concurrency: int, metrics: dict[str, float]) -> None:
        self.results.loads.setdefault(name, {}).setdefault(load, {})[concurrency] = metrics
        self.finished += 1
        rate = f"{metrics['tokens_per_second']:,.0f} tokens/s"
        _print(f"[{self.finished}/{self.total}] {name}, {load}, {concurrency} at once: {rate}")


def pooled(rounds: list[dict[str, float]]) -> dict[str, float]:
    """Merge the metrics of several rounds: the sums of counts, the means of all others."""
    return {name: (sum if name in ("answers", "cut_off") else statistics.fmean)(metrics[name] for metrics in rounds) for name in rounds[0]}


async def _bigram_under_load(url: str, server: Server, artifact: Path, seconds: float) -> LoadResult:
    """Run the bigram's load within that of 32 completions: it starts 2 s later and ends about 2 s earlier."""
    completions = asyncio.create_task(run_load(url, server.send, LOADS["completions"](artifact), CONCURRENCIES[-1], seconds))
    await asyncio.sleep(2)
    result = await run_load(url, send_to_bigram, LOADS["completions"](artifact), 1, max(1, seconds - 4))
    await completions
    return result


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    """Measure the service and its peers, write the report and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base-model", help="a directory or Hub id (default: GPT-2 small with random weights)")
    parser.add_argument("--seconds", type=float, default=16, help="the duration of a load (default: 16)")
    parser.add_argument(
        "--only", nargs="*", default=None, help="the peers to measure, such as vLLM; all by default, none after a bare --only"
    )
    arguments = parser.parse_args()
    artifact = prepare(DIRECTORY, arguments.base_model or random_gpt2())
    peers = servers(artifact, DIRECTORY / "bentoml")
    trigen = peers.pop("trigen")
    chosen = [name for name in peers if arguments.only is None or name in arguments.only]
    total = (2 + len(chosen)) * len(CELLS) + len(GENERATE)
    comparison = Comparison(artifact, DIRECTORY, arguments.seconds, total)
    comparison.measure_service(trigen)
    for name in chosen:
        comparison.measure_peer(name, peers[name])
    print(write(DIRECTORY, comparison.results))


if __name__ == "__main__":
    main()
