"""Write the report of a comparison: a page with a table, plots, samples and their interpretation, and the values as JSON."""

import json
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from training.figures import save_figure, table

LABELS = {"unigram": "unigram", "bigram": "bigram", "rnn": "LSTM", "base": "base LLM", "llm": "fine-tuned LLM"}
"""From the simplest to the strongest: bits per byte should fall in this order."""


def write_comparison_report(run: Path, comparison: dict[str, Any], metrics: dict[str, dict[str, Any]]) -> Path:
    """Write `comparison.md`, its plots and `comparison.json` into `comparison/` in a run's directory and in each of its artifacts.

    Returns the path of the page.
    """
    directory = run / "comparison"
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    (directory / "comparison.json").write_text(json.dumps(comparison, indent=2) + "\n", encoding="utf-8")
    models = comparison["models"]
    _plot_models(directory, models)
    curve = metrics.get("rnn", {}).get("curve", [])
    if len(curve) > 1:
        _plot_lstm_curve(directory, curve)
    (directory / "comparison.md").write_text(
        "\n\n".join(
            [
                "# Language models on the same text",
                f"{comparison['contexts']:,} held-out contexts, {comparison['bytes']:,} bytes of UTF-8, {comparison['words']:,} words and "
                f"punctuation marks; each context from its beginning. None of this run's models was trained on them. A base LLM may have "
                f"seen them in pretraining, like most of Wikipedia. A word outside a vocabulary costs the bits of its spelling. "
                f"Measured on: {comparison['machine']}.",
                _metrics_table(models),
                "![Bits per byte](bits_per_byte.png)",
                "![Bits per byte and speed](speed.png)",
                _ordering(models),
                *([_lstm_advice(metrics["rnn"])] if curve else []),
                *(["![The LSTM's epochs](lstm.png)"] if len(curve) > 1 else []),
                _samples(comparison),
            ]
        )
        + "\n",
        encoding="utf-8",
    )
    for name in metrics:
        shutil.copytree(directory, run / name / "comparison", dirs_exist_ok=True)
    return directory / "comparison.md"


def _metrics_table(models: dict[str, dict[str, Any]]) -> str:
    head = ("model", "bits per byte", "perplexity per word", "parameters", "artifact", "training", "tokens/s", "p50 latency")
    rows = [
        (
            LABELS[name],
            f"**{m['bits_per_byte']:.3f}**",
            f"{m['word_perplexity']:,.0f}",
            f"{m['parameters']:,}",
            "–" if m["artifact_bytes"] is None else f"{m['artifact_bytes'] / 1e6:,.1f} MB",
            "–" if m["training_seconds"] is None else f"{m['training_seconds']:,.1f} s",
            f"{m['tokens_per_second']:,.0f}",
            f"{1000 * m['latency_seconds']:,.1f} ms",
        )
        for name, m in models.items()
    ]
    return table(head, rows) + (
        "\n\nA token is a word or punctuation mark for the word models, a BPE token for the LLMs. Speed and latency are "
        "measured in process with the engine that serves: one request at a time, up to 64 new tokens. The parameters of an n-gram model "
        "are its counts above zero."
    )


def _ordering(models: dict[str, dict[str, Any]]) -> str:
    """Say whether each model predicts better than the simpler one before it, and if not, why."""
    chain = [name for name in LABELS if name in models]
    broken = [(before, after) for before, after in pairwise(chain) if models[after]["bits_per_byte"] >= models[before]["bits_per_byte"]]
    steps = " > ".join(f"{LABELS[name]} {models[name]['bits_per_byte']:.3f}" for name in chain)
    text = f"## The order\n\nIn bits per byte: {steps}." if not broken else "## The order\n\n"
    reasons = {
        "rnn": "An LSTM needs more text, or more minutes, before it beats counts.",
        "llm": "Fine-tuning for answers costs some ability on plain text; a higher `--text-weight` recovers it.",
    }
    for pair in broken:
        before, after = (f"the {LABELS[name]} ({models[name]['bits_per_byte']:.3f})" for name in pair)
        text += f"The order does not hold between {before} and {after}. {reasons.get(pair[1], '')} "
    return text.strip()


def _lstm_advice(metrics: dict[str, Any]) -> str:
    """Say what would make the LSTM better."""
    curve = metrics["curve"]
    last, best = curve[-1], min(curve, key=lambda epoch: epoch["held_out"])
    gap = last["held_out"] - last["train"]
    text = (
        f"## The LSTM\n\nIt trained on {metrics['words']:,} words in {metrics['epochs']} epochs; epoch {metrics['best_epoch']} was kept. "
    )
    if best is not last:
        text += (
            f"Later epochs did not improve on held-out text ({last['held_out']:.2f} nats per word; the best was {best['held_out']:.2f}; "
            f"{last['train']:.2f} on training text): it needs more text, or more dropout, not more minutes."
        )
    elif gap < 0.3:
        text += (
            f"The held-out loss was still falling at the end, and the training loss is hardly lower ({last['train']:.2f} nats per word "
            f"against {last['held_out']:.2f}): more minutes would help, then a wider model."
        )
    else:
        text += (
            f"The held-out loss was still falling at the end, but the training loss is much lower ({last['train']:.2f} nats per word "
            f"against {last['held_out']:.2f}): more minutes help less and less. More text would help, or more dropout "
            "together with more minutes."
        )
    return text


def _samples(comparison: dict[str, Any]) -> str:
    parts = [f"## Samples\n\nTemperature 0.8, top-p 0.95, seed {comparison['seed']}, up to 40 tokens."]
    for i, prompt in enumerate(comparison["prompts"]):
        rows = [(LABELS[name], f"**{prompt}**{m['samples'][i]}") for name, m in comparison["models"].items()]
        parts.append(table(("model", "text"), rows))
    return "\n\n".join(parts)


def _plot_models(directory: Path, models: dict[str, dict[str, Any]]) -> None:
    names = [LABELS[name] for name in models]
    bits = [m["bits_per_byte"] for m in models.values()]
    figure, axes = plt.subplots(figsize=(7, 0.6 + 0.45 * len(names)), layout="constrained")
    bars = axes.barh(names, bits, color=[f"C{i}" for i in range(len(names))])
    axes.bar_label(bars, fmt="%.3f", padding=3)
    axes.set_xlim(0, 1.15 * max(bits))
    axes.invert_yaxis()
    save_figure(figure, axes, "Bits per byte of held-out text: lower is better", "bits per byte", directory / "bits_per_byte.png")

    figure, axes = plt.subplots(figsize=(7, 3.6), layout="constrained")
    for i, (name, m) in enumerate(models.items()):
        axes.scatter(m["tokens_per_second"], m["bits_per_byte"], s=60, color=f"C{i}")
        offset = (8, -14 if name == "llm" else 5)  # clear of the base LLM's label, which is close
        axes.annotate(LABELS[name], (m["tokens_per_second"], m["bits_per_byte"]), offset, textcoords="offset points")
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.set_ylabel("bits per byte")
    save_figure(figure, axes, "The price of better predictions", "tokens/s, one request at a time", directory / "speed.png")


def _plot_lstm_curve(directory: Path, curve: list[dict[str, float]]) -> None:
    figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
    for name, label in (("train", "training text"), ("held_out", "held-out text")):
        axes.plot([epoch["words"] / 1e6 for epoch in curve], [epoch[name] for epoch in curve], marker="o", label=label)
    axes.legend()
    save_figure(figure, axes, "The LSTM's epochs: nats per word of the vocabulary", "million words", directory / "lstm.png")
