"""Tables and figures for the reports."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a display

from matplotlib import pyplot as plt


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """Return a table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def save_figure(figure: Any, axes: Any, title: str, label: str, path: Path) -> None:
    """Add a title, an x-axis label and a grid to a plot, write it as PNG, and close it."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
