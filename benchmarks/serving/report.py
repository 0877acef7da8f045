"""The report of benchmarks/serve.py: a table, a plot and a JSON file."""

import json
import math
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from benchmarks.serving.loads import OBJECTIVES
from benchmarks.serving.vllm_bench import Measured
from training.figures import save_figure, table

LABELS = {
    "raw": "openvino-genai, in process",
    "generate-fp32": "transformers generate, fp32, in process",
    "generate-bf16": "transformers generate, bf16, in process",
}
MEASURES = (
    "tokens/s", "trigen is faster by", "goodput, requests/s", "first token p50, ms", "p99", "answer p50, ms", "p99", "slowest/fastest",
    "answers", "cut off", "GB",
)  # fmt: skip
VLLM_MEASURES = ("tokens/s", "goodput, requests/s", "TTFT p50, ms", "p99", "TPOT p50, ms", "answers", "failed")
VLLM_METRICS = ("p50_ttft_ms", "p99_ttft_ms", "p50_tpot_ms", "completed", "failed")
LATENCIES = ("first_token_p50", "first_token_p99", "answer_p50", "answer_p99")
BIGRAM_UNDER_LOAD = "bigram beside 32 completions"
VLLM_NOTE = (
    "`vllm bench serve` calls each server's OpenAI API. All servers get the same prompts and answer greedily. Towards the end of a run, "
    "fewer requests are left than may run at once. Goodput has the limits above."
)
START_NOTE = (
    "Seconds from the server's command. The memory (PSS) is that of the idle server after its first token: "
    "with continuous batching, `transformers serve` allocates its cache only then."
)


@dataclass
class Results:
    """What was measured, by server."""

    loads: dict[str, dict[str, Any]] = field(default_factory=dict)
    """For each load and number of concurrent requests, `LoadResult.summary` and the memory in GB."""
    starts: dict[str, dict[str, float]] = field(default_factory=dict)
    """Seconds from the command to readiness and to the first token, and the memory in GB then."""
    vllm_bench: dict[str, Measured] = field(default_factory=dict)
    """What vLLM's client measured."""


def write(directory: Path, results: Results) -> str:
    """Write serve.md, serve.json and serve.png; return the text of serve.md."""
    (directory / "serve.json").write_text(json.dumps(asdict(results), indent=2) + "\n")
    _plot(directory, results.loads)
    parts = [table(("load", "at once", "", *MEASURES), _rows(results.loads)), *_notes(results.loads)]
    if results.vllm_bench:
        parts += ["## The same with vLLM's own client", table(("load", "at once", "", *VLLM_MEASURES), _vllm_rows(results.vllm_bench))]
        parts += [VLLM_NOTE]
    starts = [(name, *(f"{start[measure]:.1f}" for measure in ("ready", "first_token", "gb"))) for name, start in results.starts.items()]
    parts += ["## Start and memory", table(("", "ready after, s", "first token after, s", "GB"), starts), START_NOTE]
    text = "\n\n".join(parts)
    (directory / "serve.md").write_text(f"{text}\n\n![Tokens/s](serve.png)\n")
    return text


def _rows(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    loads = [(load, concurrency) for load, cells in results.get("trigen", {}).items() if load != BIGRAM_UNDER_LOAD for concurrency in cells]
    rows = []
    for load, concurrency in loads:
        trigen = results["trigen"][load][concurrency]
        for name, server_loads in results.items():
            if cell := server_loads.get(load, {}).get(concurrency):
                rows.append(
                    (
                        load,
                        str(concurrency),
                        LABELS.get(name, name),
                        f"{cell['tokens_per_second']:,.0f}",
                        "" if name == "trigen" else _format(_advantage(trigen, cell, load, concurrency), ".2f"),
                        f"{cell['goodput']:.1f}",
                        *(_format(cell[latency] * 1000, ",.0f") for latency in LATENCIES),
                        _format(cell["slowest_over_fastest"], ".2f"),
                        f"{cell['answers']:.0f}",
                        f"{cell['cut_off']:.0f}",
                        f"{cell['gb']:.2f}",
                    )
                )
    return rows


def _vllm_rows(results: dict[str, Measured]) -> list[tuple[str, ...]]:
    rows = []
    for load, concurrency in [(load, concurrency) for load, cells in next(iter(results.values())).items() for concurrency in cells]:
        for name, loads in results.items():
            cell = loads[load][concurrency]
            rates = (f"{cell['output_throughput']:,.0f}", f"{cell['request_goodput']:.1f}")
            rows.append((load, str(concurrency), name, *rates, *(f"{cell[metric]:,.0f}" for metric in VLLM_METRICS)))
    return rows


def _advantage(trigen: dict[str, float], peer: dict[str, float], load: str, concurrency: int) -> float:
    """Return how many times as fast trigen is: in tokens/s, or in the median time to an answer for one question at a time."""
    if concurrency == 1 and load != "completions":
        return peer["answer_p50"] / trigen["answer_p50"]
    return trigen["tokens_per_second"] / peer["tokens_per_second"] if peer["tokens_per_second"] else math.nan


def _format(value: float, specification: str) -> str:
    return "–" if math.isnan(value) else format(value, specification)


def _notes(results: dict[str, dict[str, Any]]) -> list[str]:
    trigen = results.get("trigen", {})
    limits = "; ".join(f"{load}: {_limits(objectives)}" for load, objectives in OBJECTIVES.items())
    notes = [
        "trigen, openvino-genai and llama.cpp (Q8_0) run int8 weights. transformers, LitServe and vLLM run bf16, unless the table says "
        "fp32.",
        f"Goodput counts the requests that met every limit of their load ({limits}). TTFT is the time to the first token, TPOT the time "
        "per token after it, E2EL the time to the answer. Where a server does not stream, the first token comes with the answer.",
    ]
    notes.append("trigen and the in-process contestants take turns; their p50 and p99 are the means over the turns.")
    if bigram := trigen.get(BIGRAM_UNDER_LOAD):
        notes.append(
            f"`/generate_text` while 32 completions keep the LLM busy: p50 {bigram['answer_p50'] * 1000:.1f} ms, "
            f"p99 {bigram['answer_p99'] * 1000:.1f} ms, {bigram['answers']:.0f} answers."
        )
    if "one passage" in trigen and "questions" in trigen:
        new_passage, same_passage = (trigen[load][1]["answer_p50"] for load in ("questions", "one passage"))
        ratio = new_passage / same_passage
        notes.append(f"Questions about one passage are answered {ratio:.1f} times as fast as questions with a new passage each (p50).")
    return notes


def _limits(objectives: dict[str, float]) -> str:
    return ", ".join(f"{name.upper()} {limit * 1000:.0f} ms" for name, limit in objectives.items())


def _plot(directory: Path, results: dict[str, dict[str, Any]]) -> None:
    """Plot the tokens/s of the completions against the number of concurrent requests."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, loads in results.items():
        if cells := loads.get("completions"):
            style = {"color": "black", "linewidth": 2.5} if name == "trigen" else {"linestyle": "--" if name == "raw" else "-"}
            axes.plot(
                list(cells), [cell["tokens_per_second"] for cell in cells.values()], marker="o", label=LABELS.get(name, name), **style
            )
    axes.set(xscale="log", ylabel="tokens/s")
    axes.set_xticks([1, 8, 32], ["1", "8", "32"])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8)
    save_figure(figure, axes, "Completions: 16 tokens, then 64 to 100 new ones", "requests at once", directory / "serve.png")
