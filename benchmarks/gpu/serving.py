"""The serving: completions with more and more clients, of the service and of vLLM."""

import dataclasses
import importlib.util
import sys
from pathlib import Path

import uvloop

from benchmarks.gpu.parts import Options, Result, Skipped
from benchmarks.serve import prepare
from benchmarks.serving.client import openai_sender, run_load
from benchmarks.serving.loads import LOADS
from benchmarks.serving.process import PROJECT
from benchmarks.serving.servers import Server, memory, running, servers

CONCURRENCIES, QUICK_CONCURRENCIES = (1, 8, 32, 128), (1, 8)
SECONDS, QUICK_SECONDS = 16, 1.5
VLLM_SHARE = 0.5
"""The share of the GPU's memory that vLLM takes: room for far more than 128 texts."""


def measure(options: Options, name: str) -> Result:
    """Run the load `completions` on a server; return its tokens/s and times for each number of clients."""
    directory = options.directory / "serving"
    artifact = directory / "llm"
    server = _server(name, artifact, directory / "bentoml")
    if server.missing:
        raise Skipped(f"{name} is not installed")
    if not (directory / "bentoml").exists():
        prepare(directory, options.model(), 1 if options.quick else 15)
    load = LOADS["completions"](artifact)
    with running(server, options.directory / "parts" / f"{name}-server.log") as (url, process):
        clients: Result = {
            str(concurrency): uvloop.run(
                run_load(url, server.send, load, concurrency, QUICK_SECONDS if options.quick else SECONDS)
            ).summary("completions")
            for concurrency in (QUICK_CONCURRENCIES if options.quick else CONCURRENCIES)
        }
        return {"clients": clients, "memory_gb": memory(process)}


def _server(name: str, artifact: Path, home: Path) -> Server:
    """Return the service with the engine that it chooses itself, or vLLM's build for GPUs."""
    if name == "trigen":
        service = servers(artifact, home)["trigen"]
        return dataclasses.replace(service, environment=dict(service.environment) | {"TRIGEN_ENGINE": "auto"})
    own = PROJECT / ".venv-vllm-gpu/bin/python"
    python = sys.executable if importlib.util.find_spec("vllm") else str(own)
    command = [python, "-m", "vllm.entrypoints.openai.api_server", "--model", str(artifact), "--host", "127.0.0.1", "--port", "PORT"]
    command += ["--dtype", "bfloat16", "--max-model-len", "1024", "--gpu-memory-utilization", str(VLLM_SHARE)]
    sender = openai_sender(str(artifact), stream_options={"include_usage": True}, ignore_eos=True)
    return Server(command, "/health", sender, {"VLLM_NO_USAGE_STATS": "1"})
