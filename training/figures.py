"""Tables and figures of the reports."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # no display is needed, and none is opened

from matplotlib import pyplot as plt


def table(head: tuple[str, ...], rows: list[tuple[Any, ...]]) -> str:
    """A table in Markdown."""
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|").replace("\n", " ") for cell in line) + " |" for line in lines)


def save_figure(figure: Any, axes: Any, title: str, label: str, path: Path) -> None:
    """Give a plot its title, the label of its horizontal axis and a grid, write it as PNG, and close it."""
    axes.set_title(title, loc="left")
    axes.set_xlabel(label)
    axes.grid(alpha=0.3)
    axes.set_axisbelow(True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
