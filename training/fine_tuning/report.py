"""Write the report of a fine-tuning: a Markdown page with plots, which is kept next to the checkpoints and in the artifact."""

from pathlib import Path
from typing import Any

from matplotlib import pyplot as plt

from training.evaluation.report import answer_measures, bits_per_byte_measure, plot_answers, squad2_sections
from training.figures import save_figure, table
from training.fine_tuning.metrics_log import MetricsLog
from training.run import display_name


def write_report(directory: Path, log: MetricsLog, configuration: dict[str, Any], metrics: dict[str, Any]) -> None:
    """Write `report.md` and its plots into `directory`. It names no local paths, because it may be published with the artifact."""
    sources = {name: display_name(configuration[name]) for name in ("base_model", "dataset")}
    settings = {name: value for name, value in (configuration | sources).items() if name not in ("config", "output_dir")}
    train, validations = log.read("train"), log.read("validation")
    plots = _plot(directory, train, validations) | plot_answers(directory, metrics)
    (directory / "report.md").write_text(
        "\n\n".join(
            [
                f"# {sources['base_model']} fine-tuned on {sources['dataset']}",
                _metrics_table(metrics),
                *squad2_sections(metrics),
                *(f"![{title}]({name}.png)" for name, title in plots.items()),
                *([_validations_table(validations), _answers_table(validations[-1]["answers"])] if validations else []),
                "## Configuration",
                table(("setting", "value"), list(settings.items())),
            ]
        )
        + "\n",
        encoding="utf-8",
    )


def _metrics_table(metrics: dict[str, Any]) -> str:
    without_context, best, cost = metrics["without_context"], metrics["best_validation"], metrics.get("int8_f1_cost")
    return table(
        ("measure", "value"),
        [
            *answer_measures(metrics),
            *(
                [("CPU engine", f"{metrics['weights']} weights; int8 costs {cost:.2f} ± {metrics['int8_f1_cost_error']:.2f} points of F1")]
                if cost is not None
                else []
            ),
            bits_per_byte_measure(metrics),
            (
                "asked without a context",
                f"F1 {without_context['f1']:.1f} %, {without_context['mean_answer_words']:.1f} words, "
                f"{without_context['ended_share']:.1%} ended before the length limit",
            ),
            ("trained on", f"{metrics['rows']:,} questions, {metrics['tokens']:,} tokens, {metrics['steps']:,} steps"),
            *([("registered", f"the weights of step {best['step']:,}")] if best else []),
            ("training time", f"{metrics['seconds']:,.0f} s, {metrics['tokens_per_second']:,.0f} tokens/s without padding"),
        ],
    )


def _validations_table(validations: list[dict[str, Any]]) -> str:
    rows = [
        (f"{v['step']:,}", f"{v['exact_match']:.1f}", f"{v['f1']:.1f}", f"{v['span_share']:.1%}", f"{v['mean_answer_words']:.1f}")
        for v in validations
    ]
    return "## Validations\n\n" + table(("step", "EM", "F1", "spans", "words in an answer"), rows)


def _answers_table(answers: list[dict[str, Any]]) -> str:
    rows = [(a["question"], " / ".join(a["references"]) or "–", a["answer"] or "–", a["without_context"]) for a in answers]
    return "## The last validation's answers\n\n" + table(("question", "expected", "answer", "without a context"), rows)


def _plot(directory: Path, train: list[dict[str, Any]], validations: list[dict[str, Any]]) -> dict[str, str]:
    """Draw each curve as a PNG. Return the titles by file name."""
    steps = [line["step"] for line in train]
    titles = {
        "loss": "Loss, nats per supervised token",
        "learning_rate": "Learning rate",
        "tokens_per_second": "Tokens/s, without padding",
    }
    for name, title in titles.items():
        values = [line[name] for line in train]
        figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
        if name == "learning_rate":
            axes.plot(steps, values)
        else:
            axes.plot(steps, values, alpha=0.3, linewidth=0.8, label="step")
            axes.plot(steps, _smooth(values), color="C0", label="moving average")
            axes.legend()
        if name == "tokens_per_second":
            axes.set_ylim(0, 1.05 * axes.get_ylim()[1])
        save_figure(figure, axes, title, "step", directory / f"{name}.png")
    if validations:
        figure, axes = plt.subplots(figsize=(7, 3.2), layout="constrained")
        for name, label in (("exact_match", "EM"), ("f1", "F1")):
            axes.plot([v["step"] for v in validations], [v[name] for v in validations], marker="o", label=label)
        axes.legend()
        titles["scores"] = "EM and F1 on the validation questions, %"
        save_figure(figure, axes, titles["scores"], "step", directory / "scores.png")
    return titles


def _smooth(values: list[float], window: int = 20) -> list[float]:
    """Return the exponential moving average over about `window` steps."""
    smoothed: list[float] = []
    for count, value in enumerate(values, start=1):
        before = smoothed[-1] if smoothed else value
        smoothed.append(before + (value - before) / min(count, window))
    return smoothed
