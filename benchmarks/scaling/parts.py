"""The parts of the benchmark. Each returns its measurements, by the number that grows: requests at once, tokens of a prompt, or cores."""

import dataclasses
import json
import random
import statistics
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import uvloop

from benchmarks.scaling.limits import confined, cores, limits
from benchmarks.serving.client import run_load, send_to_trigen
from benchmarks.serving.in_process import in_process
from benchmarks.serving.loads import LOADS
from benchmarks.serving.servers import Server, memory, running, servers
from benchmarks.train import flops_per_token
from models.engines.tokenization import ModelLimits

AT_ONCE, ENGINE_AT_ONCE = (1, 2, 4, 8, 16, 32, 64, 128, 256), (1, 8, 32, 128)
PROMPTS = (16, 64, 256, 1_000, 2_000, 4_000)
CORES, CORES_AT_ONCE, CORES_PROMPT = (1, 2, 4, 8), (1, 8, 32), 256
WORKERS_LOADS = ("completions", "questions")
MIN_PROMPTS = 3
"""The minimum number of measured prompts of a length."""

Result = dict[str, Any]


@dataclass(frozen=True)
class Options:
    """What all parts share: where the model store lies, and the duration of a load."""

    directory: Path
    seconds: float

    @property
    def artifact(self) -> Path:
        """The LLM's directory in the store that `benchmarks.serve.prepare` creates."""
        return self.directory / "store/llm"

    def server(self, **environment: str) -> Server:
        """Return the service, with further variables in its environment."""
        server = servers(self.artifact, self.directory / "store/bentoml")["trigen"]
        return dataclasses.replace(server, environment={**server.environment, **environment})

    def load_seconds(self, at_once: int) -> float:
        """Return the duration of a load: the more requests share the processors, the longer each takes."""
        return self.seconds * max(1, at_once // 64)


def weights(artifact: Path) -> Result:
    """Return the number of weights in the matrices of the blocks, and in the head."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(artifact)
    return {"blocks": round(flops_per_token(str(artifact), 0) / 6), "head": config.vocab_size * config.hidden_size}


def core_counts() -> list[int]:
    """Return the numbers of cores that are measured: those of `CORES` that the machine has."""
    return [count for count in CORES if count <= len(cores())]


def measure_limits(options: Options) -> Result:
    """Measure the limits with each number of cores, and with all of them."""
    size = sum(weights(options.artifact).values())
    counts = sorted({*core_counts(), len(cores())})
    return {str(count): limits(cores()[:count], size, options.seconds / 4) for count in counts}


def measure_engine(options: Options) -> Result:
    """Measure completions on openvino-genai itself, in process, with more and more at once."""
    with in_process("raw", options.artifact) as run:
        return {str(at_once): run("completions", at_once, options.load_seconds(at_once)) for at_once in ENGINE_AT_ONCE}


def measure_requests(options: Options) -> Result:
    """Measure completions over HTTP with more and more at once. The service may generate all of them at once: none waits or gets 429."""
    server, load = options.server(TRIGEN_MAX_TEXTS=str(max(AT_ONCE))), LOADS["completions"](options.artifact)
    with running(server, options.directory / "requests.log") as (url, _):
        return {
            str(at_once): uvloop.run(run_load(url, send_to_trigen, load, at_once, options.load_seconds(at_once))).summary("completions")
            for at_once in AT_ONCE
        }


def measure_prompts(options: Options) -> Result:
    """Measure longer and longer prompts over HTTP, one at a time, each for one new token."""
    context = ModelLimits(options.artifact).context_length
    with running(options.server(), options.directory / "prompts.log") as (url, _):
        return {str(length): _prompts(url, length, options.seconds / 2) for length in PROMPTS if length < context}


def measure_cores(options: Options) -> Result:
    """Measure the service on more and more cores: completions, and prompts of `CORES_PROMPT` tokens. The client may use all cores."""
    measured: Result = {}
    for count in core_counts():
        load = LOADS["completions"](options.artifact)
        with ExitStack() as stack:
            with confined(cores()[:count]):
                url, process = stack.enter_context(running(options.server(), options.directory / f"cores-{count}.log"))
            completions: Result = {}
            for at_once in CORES_AT_ONCE:
                before, started = _processor_seconds(process), time.perf_counter()
                completions[str(at_once)] = uvloop.run(run_load(url, send_to_trigen, load, at_once, options.seconds)).summary("completions")
                completions[str(at_once)]["busy"] = (_processor_seconds(process) - before) / (time.perf_counter() - started)
            measured[str(count)] = {"completions": completions, "prompt": _prompts(url, CORES_PROMPT, options.seconds / 2)}
    return measured


def measure_workers(options: Options) -> Result:
    """Measure the service with more and more workers, each on its share of the cores: completions, questions, and the memory of all."""
    measured: Result = {}
    for count in core_counts():
        server = options.server(BENTOML_CONFIG_OVERRIDES=json.dumps({"services": {"trigen": {"workers": count}}}))
        with running(server, options.directory / f"workers-{count}.log") as (url, process):
            loads = {
                name: {str(at_once): _tokens_per_second(options, url, name, at_once) for at_once in CORES_AT_ONCE} for name in WORKERS_LOADS
            }
            measured[str(count)] = {**loads, "memory": memory(process)}
    return measured


def _tokens_per_second(options: Options, url: str, load: str, at_once: int) -> float:
    requests = LOADS[load](options.artifact)
    return float(uvloop.run(run_load(url, send_to_trigen, requests, at_once, options.seconds)).summary(load)["tokens_per_second"])


def _processor_seconds(process: psutil.Process) -> float:
    """Return the processor time of a process and its children so far."""
    times = [member.cpu_times() for member in [process, *process.children(recursive=True)]]
    return float(sum(time.user + time.system for time in times))


def _prompts(url: str, length: int, seconds: float) -> Result:
    """Send prompts of random tokens for `seconds`, after one as a warm-up; no two have a prefix in common."""
    rng, end = random.Random(length), 0.0
    times: list[float] = []
    with httpx.Client(timeout=None) as client:
        while len(times) <= MIN_PROMPTS or time.perf_counter() < end:
            body = {"model": "llm", "prompt": rng.choices(range(1, 1_000), k=length), "max_tokens": 1, "temperature": 0}
            started = time.perf_counter()
            client.post(f"{url}/v1/completions", json=body).raise_for_status()
            times.append(time.perf_counter() - started)
            end = end or time.perf_counter() + seconds
    first_token = statistics.median(times[1:])
    return {"first_token": first_token, "tokens_per_second": length / first_token, "prompts": len(times) - 1}
