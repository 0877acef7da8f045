"""What a run says of itself: metadata for the store, and the summary at its end."""

import dataclasses
import importlib.metadata
import json
import logging
import subprocess
from pathlib import Path
from typing import Any

import transformers

from training.config import Config
from training.data import Splits

PACKAGES = ("bentoml", "datasets", "nncf", "numpy", "openvino-genai", "torch", "transformers")


def quieten() -> None:
    """Silence the progress bars and the tables of libraries that print while weights are read, written and compressed."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("nncf").setLevel(logging.WARNING)


def describe_run(config: Config, splits: Splits) -> dict[str, Any]:
    """What the metadata of all three models have in common."""
    effective = dataclasses.asdict(config) | {"output_dir": str(config.output_dir), "only": list(config.only)}
    return {
        "dataset": splits.describe() | {"source": name_of(config.dataset)},
        "seed": config.seed,
        "configuration": effective,
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def name_of(source: str) -> str:
    """A Hub id as it is; of a local path the last part, for the metadata is shown to clients."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source


def _git_commit() -> str | None:
    """The commit of the code that trains, with `+` where the tree has changes; None outside a checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def show(metrics: dict[str, dict[str, Any]], directory: Path) -> None:
    """Print the scores, a line a model, and write them to `metrics.json`."""
    (directory / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    for name, values in metrics.items():
        if name == "llm":
            print(
                f"llm     EM {values['exact_match']:.1f}  F1 {values['f1']:.1f}  on {values['questions']} held-out questions; "
                f"{100 * values['span_share']:.0f} % of the answers are spans; {values['rows']:,} rows in {values['seconds']:.0f} s, "
                f"{values['tokens_per_second']:,.0f} tokens/s"
            )
        else:
            print(f"{name:<7} perplexity {values['perplexity']:,.0f} per known word of held-out text; {values['seconds']:.1f} s")
