"""The report: a table and a plot for each part, with the machine's limits."""

import statistics
from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from benchmarks.scaling.parts import WORKERS_LOADS, Result
from benchmarks.serving.loads import NEW_TOKENS
from training.figures import save_figure, table

PRECISIONS = {"int8": "tab:red", "bf16": "tab:purple"}
"""The precisions of the limits, with their colours."""


def write(directory: Path, results: Result) -> str:
    """Write scaling.md and the plots; return the text. The results must have the limits; other parts may be missing."""
    sections = [_machine(results)]
    for part, (section, plot) in SECTIONS.items():
        if part in results:
            sections.append(section(results))
            if plot:
                plot(directory / f"{part}.png", results)
                sections.append(f"![{part}]({part}.png)")
    text = "\n\n".join(sections)
    (directory / "scaling.md").write_text(f"{text}\n")
    return text


def most_tokens(results: Result, at_once: int, precision: str = "int8", cores: str | None = None) -> float:
    """Return the most tokens/s that the limits allow to so many texts at once.

    A step reads all weights once, in int8, and computes two operations with each for every text.
    """
    limits, weights = _limits(results, cores), sum(results["weights"].values())
    return float(min(at_once * limits["bytes_per_second"] / weights, limits[precision] / (2 * weights)))


def most_prompt_tokens(results: Result, precision: str = "int8", cores: str | None = None) -> float:
    """Return the most tokens/s of a prompt: two operations for each weight of the blocks. The head is computed once only."""
    return float(_limits(results, cores)[precision] / (2 * results["weights"]["blocks"]))


def least_first_token(results: Result, tokens: int, precision: str = "int8") -> float:
    """Return the least seconds to the first token after a prompt: its products, or reading the weights if that takes longer."""
    read = sum(results["weights"].values()) / _limits(results)["bytes_per_second"]
    return float(max(tokens / most_prompt_tokens(results, precision), read))


def _limits(results: Result, cores: str | None = None) -> dict[str, Any]:
    """Return the limits of a number of cores, all of them by default."""
    return dict(results["limits"][cores or str(results["machine"]["cores"])])


def _machine(results: Result) -> str:
    machine, weights = results["machine"], results["weights"]
    return (
        f"{machine['processor']}, {machine['cores']} cores; OpenVINO {machine['openvino']}. The model has {weights['blocks'] / 1e6:.1f} "
        f"million weights in the blocks' matrices and {weights['head'] / 1e6:.1f} million in the head."
    )


def _limits_section(results: Result) -> str:
    rows = [
        (
            cores,
            f"{limits['bytes_per_second'] / 1e9:.1f}",
            *(f"{limits[precision] / 1e12:.2f}" for precision in PRECISIONS),
            f"{most_tokens(results, 1, cores=cores):,.0f}",
            *(f"{most_prompt_tokens(results, precision, cores):,.0f}" for precision in PRECISIONS),
        )
        for cores, limits in results["limits"].items()
    ]
    kernels = [f"{precision} runs in the kernel `{_limits(results)[f'{precision}_kernel']}`" for precision in PRECISIONS]
    head = ("cores", "memory, GB/s", "int8, TOP/s", "bf16, TOP/s", "tokens/s alone, at most", "prompt tokens/s, at most, int8", "bf16")
    return f"{table(head, rows)}\n\n{'; '.join(kernels)}."


def _requests_section(results: Result) -> str:
    engine, rows = results.get("engine", {}), []
    for at_once, cell in results["requests"].items():
        tokens = cell["tokens_per_second"]
        rows.append(
            (
                at_once,
                f"{tokens:,.0f}",
                f"{tokens / most_tokens(results, int(at_once)):.0%}",
                f"{engine[at_once]['tokens_per_second']:,.0f}" if at_once in engine else "–",
                *(f"{1000 * cell[name]:,.0f}" for name in ("first_token_p50", "first_token_p99", "answer_p50", "answer_p99")),
                f"{cell['answers']}",
                f"{cell['cut_off']}",
            )
        )
    head = (
        "at once",
        "tokens/s",
        "of the int8 limit",
        "engine alone",
        "first token p50, ms",
        "p99",
        "answer p50, ms",
        "p99",
        "answers",
        "cut off",
    )
    return table(head, rows)


def _prompts_section(results: Result) -> str:
    rows = [
        (
            f"{int(tokens):,}",
            f"{1000 * cell['first_token']:,.1f}",
            f"{cell['tokens_per_second']:,.0f}",
            f"{least_first_token(results, int(tokens)) / cell['first_token']:.0%}",
            str(cell["prompts"]),
        )
        for tokens, cell in results["prompts"].items()
    ]
    return table(("tokens", "first token, ms", "prompt tokens/s", "of the int8 limit", "prompts"), rows)


def _cores_section(results: Result) -> str:
    rows, at_once = [], list(next(iter(results["cores"].values()))["completions"])
    for cores, cell in results["cores"].items():
        completions, prompt = cell["completions"], cell["prompt"]
        tokens = [f"{completions[number]['tokens_per_second']:,.0f}" for number in at_once]
        busy = f"{completions[at_once[-1]]['busy']:.2f}"
        rows.append((cores, *tokens, f"{1000 * prompt['first_token']:,.0f}", f"{prompt['tokens_per_second']:,.0f}", busy))
    return table(("cores", f"tokens/s, {at_once[0]} at once", *at_once[1:], "prompt, ms", "prompt tokens/s", "busy cores"), rows)


def _workers_section(results: Result) -> str:
    at_once = list(next(iter(results["workers"].values()))[WORKERS_LOADS[0]])
    columns = [(load, number) for load in WORKERS_LOADS for number in at_once]
    rows = [
        (count, *(f"{cell[load][number]:,.0f}" for load, number in columns), f"{cell['memory']:.1f}")
        for count, cell in results["workers"].items()
    ]
    return table(("workers", *(f"{load}, {number} at once, tokens/s" for load, number in columns), "memory, GB"), rows)


def _plot_requests(path: Path, results: Result) -> None:
    cells, engine = results["requests"], results.get("engine", {})
    figure, (left, right) = plt.subplots(1, 2, figsize=(7, 3.1), layout="constrained")
    numbers = [int(number) for number in cells]
    left.plot(numbers, [cell["tokens_per_second"] for cell in cells.values()], "o-", color="black", label="trigen, over HTTP")
    if engine:
        left.plot(
            [int(number) for number in engine], [cell["tokens_per_second"] for cell in engine.values()], ".-", label="the engine alone"
        )
    for percent, style in ((99, "o-"), (50, ".-")):
        right.plot(numbers, [cell[f"answer_p{percent}"] for cell in cells.values()], style, color="black", label=f"p{percent}")
    for precision, colour in PRECISIONS.items():
        most = [most_tokens(results, number, precision) for number in numbers]
        times = [statistics.mean(NEW_TOKENS) * number / tokens for number, tokens in zip(numbers, most, strict=True)]
        for axes, limit in ((left, most), (right, times)):
            axes.plot(numbers, limit, "--", color=colour, label=f"limit, {precision}")
    for axes in (left, right):
        _logarithmic(axes, numbers)
        axes.legend(fontsize=8)
    right.set_title("Seconds to an answer", loc="left")
    right.set_xlabel("requests at once")
    right.grid(alpha=0.3)
    save_figure(figure, left, "Completions, tokens/s", "requests at once", path)


def _plot_prompts(path: Path, results: Result) -> None:
    cells = results["prompts"]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    numbers = [int(number) for number in cells]
    axes.plot(numbers, [1000 * cell["first_token"] for cell in cells.values()], "o-", color="black", label="trigen, over HTTP")
    for precision, colour in PRECISIONS.items():
        least = [1000 * least_first_token(results, number, precision) for number in numbers]
        axes.plot(numbers, least, "--", color=colour, label=f"limit, {precision}")
    _logarithmic(axes, numbers)
    axes.legend(fontsize=8)
    save_figure(figure, axes, "Time to the first token, ms", "tokens of the prompt", path)


def _plot_cores(path: Path, results: Result) -> None:
    cells = results["cores"]
    figure, axes = plt.subplots(figsize=(6, 3.4), layout="constrained")
    numbers = [int(number) for number in cells]
    prompts = [cell["prompt"]["tokens_per_second"] for cell in cells.values()]
    lines = [("prompt", prompts, [most_prompt_tokens(results, cores=cores) for cores in cells])]
    for at_once in reversed(next(iter(cells.values()))["completions"]):
        tokens = [cell["completions"][at_once]["tokens_per_second"] for cell in cells.values()]
        lines.append((f"{at_once} at once", tokens, [most_tokens(results, int(at_once), cores=cores) for cores in cells]))
    for index, (label, tokens, limit) in enumerate(lines):
        axes.plot(numbers, tokens, "o-", color=f"C{index}", label=label)
        axes.plot(numbers, limit, "--", color=f"C{index}")
    axes.plot([], [], "--", color="grey", label="limits, int8")
    _logarithmic(axes, numbers)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    save_figure(figure, axes, "Tokens/s", "cores", path)


def _logarithmic(axes: Any, numbers: list[int]) -> None:
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(numbers, [f"{number:,}" for number in numbers])
    axes.yaxis.set_major_formatter("{x:,g}")
    axes.minorticks_off()


SECTIONS: dict[str, tuple[Any, Any]] = {
    "limits": (_limits_section, None),
    "requests": (_requests_section, _plot_requests),
    "prompts": (_prompts_section, _plot_prompts),
    "cores": (_cores_section, _plot_cores),
    "workers": (_workers_section, None),
}
"""The parts of the report: their tables and their plots."""
