"""The report: one page with tables, and a plot."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from benchmarks.gpu.parts import Result
from training.figures import save_figure, table

TRIGEN = "trigen"


def write_report(directory: Path, results: dict[str, Result]) -> str:
    """Write report.md and gpu.png; return the text of report.md."""
    machine, training, serving = results.get("machine", {}), _group(results, "training"), _group(results, "serving")
    parts = ["# GPU benchmark", _machine(machine)]
    if training:
        parts += ["## Training", _training_table(training, machine), _training_notes(training)]
    if (squad := results.get("SQuAD", {})).get("seconds"):
        parts += ["## SQuAD with train.py", _squad(squad)]
    if serving:
        parts += ["## Serving: completions of 64 to 100 tokens", _serving_table(serving)]
    if training or serving:
        _plot(directory / "gpu.png", training, serving)
        parts.append("![Training and serving](gpu.png)")
    left_out = [(name, kind, result[kind]) for name, result in results.items() for kind in ("skipped", "failed") if kind in result]
    if left_out:
        parts += ["## What is missing", table(("part", "", "why"), left_out)]
    seconds = sum(result["wall_seconds"] for result in results.values())
    parts.append(f"The whole benchmark took {seconds / 60:.1f} minutes.")
    text = "\n\n".join(part for part in parts if part)
    (directory / "report.md").write_text(text + "\n", encoding="utf-8")
    return text


def _group(results: dict[str, Result], name: str) -> dict[str, Result]:
    """Return the results of a group's parts that ran, by the rest of their names."""
    ran = {part: result for part, result in results.items() if not {"skipped", "failed"} & result.keys()}
    return {part.removeprefix(f"{name}/"): result for part, result in ran.items() if part.startswith(f"{name}/")}


def _machine(machine: Result) -> str:
    if "device" not in machine:
        return ""
    memory = f" with {machine['gpu_memory_gb']:.0f} GB, {machine['gpu_free_gb']:.0f} GB free" if "gpu_memory_gb" in machine else ""
    versions = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    size = machine["matrix_size"]
    return (
        f"{machine['device']}{memory}; {machine['processor']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB. "
        f"Python {machine['python']}, CUDA {machine['cuda']}, {versions}. "
        f"A bf16 matrix product of {size}³ runs at {machine['matrix_flops'] / 1e12:.1f} TFLOP/s."
    )


def _training_table(training: dict[str, Result], machine: Result) -> str:
    matrix, trigen = machine.get("matrix_flops"), training.get(TRIGEN)
    rows = []
    for name, result in training.items():
        tokens = result["tokens_per_second"]
        share = f"{tokens * result['flops_per_token'] / matrix:.1%}" if matrix else "–"
        faster = f"{trigen['rows_per_second'] / result['rows_per_second']:.2f}" if trigen and name != TRIGEN else ""
        gpu = f"{result['gpu_gb']:.1f}" if "gpu_gb" in result else "–"
        rows.append((name, f"{result['rows_per_second']:,.1f}", f"{tokens:,.0f}", share, gpu, f"{result['peak_gb']:.1f}", faster))
    return table(("", "rows/s", "computed tokens/s", "of the matrix rate (MFU)", "GPU GB", "machine GB", "trigen is faster by"), rows)


def _training_notes(training: dict[str, Result]) -> str:
    peers = [result["rows_per_second"] for name, result in training.items() if name.startswith("TRL")]
    if not peers or TRIGEN not in training:
        return ""
    return f"Trigen trains on {training[TRIGEN]['rows_per_second'] / max(peers):.2f} times as many rows a second as TRL at its best."


def _squad(squad: Result) -> str:
    return (
        f"`python train.py {squad['flags']}`\n\n{squad['rows']:,} questions and {squad['tokens']:,} tokens in {squad['steps']:,} steps and "
        f"{squad['seconds']:.0f} s of training, {squad['tokens_per_second']:,.0f} tokens/s; {squad['wall_seconds']:.0f} s with encoding, "
        f"export and evaluation. EM {squad['exact_match']:.1f}, F1 {squad['f1']:.1f} on {squad['questions']} held-out questions, answered "
        f"by {squad['engine']}; {squad['bits_per_byte']:.3f} bits per byte."
    )


def _serving_table(serving: dict[str, Result]) -> str:
    trigen = serving.get(TRIGEN, {}).get("clients", {})
    rows: list[tuple[Any, ...]] = []
    for name, result in serving.items():
        for clients, cell in result["clients"].items():
            own = trigen.get(clients)
            faster = f"{own['tokens_per_second'] / cell['tokens_per_second']:.2f}" if own and name != TRIGEN else ""
            times = [f"{cell[time] * 1000:,.0f}" for time in ("first_token_p50", "first_token_p99", "answer_p50")]
            rows.append((clients, name, f"{cell['tokens_per_second']:,.0f}", *times, f"{cell['answers']:.0f}", faster))
    rows.sort(key=lambda row: int(row[0]))
    return table(("clients", "", "tokens/s", "first token p50, ms", "p99", "answer p50, ms", "answers", "trigen is faster by"), rows)


def _plot(path: Path, training: dict[str, Result], serving: dict[str, Result]) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.6), layout="constrained")
    right.set_xscale("log")
    for name, result in serving.items():
        clients = [int(number) for number in result["clients"]]
        right.plot(clients, [cell["tokens_per_second"] for cell in result["clients"].values()], marker="o", label=name)
        right.set_xticks(clients, result["clients"])
    right.minorticks_off()
    if serving:
        right.legend(fontsize=8)
    right.set_title("Serving, tokens/s", loc="left")
    right.set_xlabel("clients")
    right.set_ylim(bottom=0)
    right.grid(alpha=0.3)
    left.barh(list(training)[::-1], [result["rows_per_second"] for result in training.values()][::-1])
    save_figure(figure, left, "Training", "rows/s", path)
