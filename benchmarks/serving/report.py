"""The table, the plot and the JSON of `benchmarks/serve.py`."""

import json
import math
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from training.figures import save_figure, table

LABELS = {
    "raw": "openvino-genai, in process",
    "generate-fp32": "transformers generate, fp32, in process",
    "generate-bf16": "transformers generate, bf16, in process",
}
MEASURES = (
    "tokens/s", "trigen is faster by", "first token p50, ms", "p99", "answer p50, ms", "p99", "slowest/fastest", "answers", "cut off", "GB",
)  # fmt: skip
BESIDE = "bigram beside 32 completions"


def write(directory: Path, results: dict[str, dict[str, Any]]) -> str:
    """Write `serve.md`, `serve.json` and `serve.png`; returns the page."""
    (directory / "serve.json").write_text(json.dumps(results, indent=2) + "\n")
    _plot(directory, results)
    page = "\n\n".join([table(("load", "at once", "", *MEASURES), _rows(results)), *_notes(results)])
    (directory / "serve.md").write_text(f"{page}\n\n![Tokens/s](serve.png)\n")
    return page


def _rows(results: dict[str, dict[str, Any]]) -> list[tuple[str, ...]]:
    loads = [(load, at_once) for load, cells in results.get("trigen", {}).items() if load != BESIDE for at_once in cells]
    rows = []
    for load, at_once in loads:
        ours = results["trigen"][load][at_once]
        for name, measured in results.items():
            if cell := measured.get(load, {}).get(at_once):
                rows.append(
                    (
                        load,
                        str(at_once),
                        LABELS.get(name, name),
                        f"{cell['tokens_per_second']:,.0f}",
                        "" if name == "trigen" else _number(_advantage(ours, cell, load, at_once), ".2f"),
                        *(_number(cell[f"{which}_p{share}"] * 1000, ",.0f") for which in ("first_token", "answer") for share in (50, 99)),
                        _number(cell["slowest_over_fastest"], ".2f"),
                        f"{cell['answers']:.0f}",
                        f"{cell['cut_off']:.0f}",
                        f"{cell['gb']:.2f}",
                    )
                )
    return rows


def _advantage(ours: dict[str, float], theirs: dict[str, float], load: str, at_once: int) -> float:
    """By tokens/s; for one question at a time by the median time to its answer."""
    if at_once == 1 and load != "completions":
        return theirs["answer_p50"] / ours["answer_p50"]
    return ours["tokens_per_second"] / theirs["tokens_per_second"] if theirs["tokens_per_second"] else math.nan


def _number(value: float, form: str) -> str:
    return "–" if math.isnan(value) else format(value, form)


def _notes(results: dict[str, dict[str, Any]]) -> list[str]:
    ours = results.get("trigen", {})
    notes = ["trigen and openvino-genai run int8 weights, transformers, LitServe and vLLM bf16 where nothing else is said."]
    notes.append("Of trigen and of what runs in process, which take turns, each p50 and p99 is the mean of those of the turns.")
    if beside := ours.get(BESIDE):
        notes.append(
            f"`/generate_text` while 32 completions keep the LLM busy: p50 {beside['answer_p50'] * 1000:.1f} ms, "
            f"p99 {beside['answer_p99'] * 1000:.1f} ms, {beside['answers']:.0f} answers."
        )
    if "one passage" in ours and "questions" in ours:
        apart, together = (ours[load][1]["answer_p50"] for load in ("questions", "one passage"))
        notes.append(f"Questions about one passage are answered {apart / together:.1f} times as fast as each about its own (p50).")
    return notes


def _plot(directory: Path, results: dict[str, dict[str, Any]]) -> None:
    """Tokens/s of the completions by requests at once."""
    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for name, measured in results.items():
        if cells := measured.get("completions"):
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
