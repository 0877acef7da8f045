"""The directory of a run: its settings, what is finished in it, and whether it may be resumed."""

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from training.config import Config
from training.data.squad import Splits
from training.errors import TrainingError

PACKAGES = ("accelerate", "bentoml", "datasets", "nncf", "numpy", "openvino-genai", "torch", "transformers")
MAY_CHANGE = {"only", "eval_examples", "checkpoint_minutes", "resume", "output_dir", "register"}
"""Settings that a resumed run may have otherwise: none that decides what is learned."""
FINE_TUNING = "fine-tuning"
"""Where checkpoints, curves and report of the LLM are, in the run's directory."""


def begin(config: Config, splits: Splits) -> dict[str, dict[str, Any]]:
    """Make the directory ready and write `config.json` into it; returns the metrics of the models that a resumed run has finished.

    Without `config.resume` what was there of these models is removed. Raises TrainingError where the run to resume had other settings.
    """
    output, now = config.output_dir, {"configuration": settings(config), "dataset": splits.description}
    if config.resume and (output / "config.json").exists():
        _compare(json.loads((output / "config.json").read_text()), json.loads(json.dumps(now)), output)
        return {name: metrics for name, metrics in read_metrics(output).items() if name in config.only and (output / name).is_dir()}
    if config.resume:
        print(f"nothing to resume in {output}: starting anew", flush=True)
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"--output-dir {output} cannot be made: {error.strerror}") from error
    for name in (*config.only, *([FINE_TUNING] if "llm" in config.only else [])):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "metrics.json").unlink(missing_ok=True)
    (output / "config.json").write_text(json.dumps(now, indent=2) + "\n", encoding="utf-8")
    return {}


def _compare(before: dict[str, Any], now: dict[str, Any], output: Path) -> None:
    old, new = before["configuration"], now["configuration"]
    changed = [name for name in sorted((old.keys() | new.keys()) - MAY_CHANGE) if old.get(name) != new.get(name)]
    if before["dataset"] != now["dataset"]:
        changed.append("dataset (its rows)")
    if changed:
        raise TrainingError(
            f"the run in {output} has other settings ({', '.join(changed)}): give it the flags that "
            f"{output / 'config.json'} holds, or another --output-dir, or leave --resume out to start anew"
        )


def settings(config: Config) -> dict[str, Any]:
    """The effective configuration as plain values."""
    return dataclasses.asdict(config) | {"output_dir": str(config.output_dir), "only": list(config.only)}


def read_config(output: Path) -> Config:
    """The settings of the run in a directory. Raises TrainingError where there is none."""
    try:
        values = json.loads((output / "config.json").read_text(encoding="utf-8"))["configuration"]
    except FileNotFoundError:
        raise TrainingError(f"no run in {output}: `make serve` leaves one in runs/quickstart, `python train.py` in runs/latest") from None
    return Config(**values | {"output_dir": output, "only": tuple(values["only"])})


def echo(config: Config) -> None:
    """Print every setting."""
    words = (f"{name}={' '.join(value) if isinstance(value, list) else value}" for name, value in settings(config).items())
    print(textwrap.fill(" · ".join(words), 140, initial_indent="  ", subsequent_indent="  "), flush=True)


def read_metrics(output: Path) -> dict[str, dict[str, Any]]:
    """The metrics of the models that are finished."""
    path = output / "metrics.json"
    metrics: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return metrics


def write_metrics(metrics: dict[str, dict[str, Any]], output: Path) -> None:
    """Write `metrics.json`: a resumed run does not fit again what is in it."""
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def run_metadata(config: Config, splits: Splits) -> dict[str, Any]:
    """What the metadata of all three models have in common."""
    return {
        "dataset": splits.description | {"source": display_name(config.dataset)},
        "seed": config.seed,
        "configuration": settings(config),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def display_name(source: str) -> str:
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


def show(metrics: dict[str, dict[str, Any]]) -> None:
    """Print the scores, a line a model."""
    for name, values in metrics.items():
        if name == "llm":
            print(
                f"llm     EM {values['exact_match']:.1f}  F1 {values['f1']:.1f}  on {values['questions']} held-out questions; "
                f"{100 * values['span_share']:.0f} % of the answers are spans; {values['rows']:,} rows in {values['seconds']:.0f} s, "
                f"{values['tokens_per_second']:,.0f} tokens/s; "
                f"{values['bits_per_byte']:.3f} bits per byte (base {values['base_bits_per_byte']:.3f})"
            )
        else:
            print(
                f"{name:<7} {values['bits_per_byte']:.3f} bits per byte of held-out text, perplexity {values['word_perplexity']:,.0f} "
                f"per word; {values['seconds']:.1f} s"
            )
