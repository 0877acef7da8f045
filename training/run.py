"""The directory of a run: its settings, the metrics of the models that are finished, and whether it can be resumed."""

import dataclasses
import importlib.metadata
import json
import shutil
import subprocess
import textwrap
from pathlib import Path
from typing import Any

from training.checkpoint import CHECKPOINTS
from training.config import Config, load_config
from training.data.squad import Splits
from training.errors import TrainingError
from training.hub import locate, portable_name

PACKAGES = ("accelerate", "bentoml", "datasets", "nncf", "numpy", "openvino-genai", "torch", "transformers")
"""The packages whose versions a model's metadata holds."""
MAY_CHANGE = {"preset", "config", "only", "eval_examples", "checkpoint_minutes", "resume", "output_dir", "trackers", "register"}
"""Settings that may differ when a run is resumed; none affects training. A preset only sets defaults."""
FINE_TUNING = "fine-tuning"
"""The subdirectory with the LLM's checkpoints, curves and report."""
RESUMABLE = (FINE_TUNING, f"rnn/{CHECKPOINTS}")
"""The subdirectories from which a model's training can be resumed."""


def prepare_run(config: Config, splits: Splits) -> dict[str, dict[str, Any]]:
    """Create the run's directory and write `config.json` into it. Return the metrics of the models that a resumed run has finished.

    Without `config.resume`, remove an earlier run's models. Checkpoints of models that `config.only` leaves out go too: a later run would
    resume them with the new settings. Raises TrainingError if the run to resume had other settings, or if --config names the run that
    would be removed.
    """
    output, new = config.output_dir, {"configuration": effective_settings(config), "dataset": splits.description}
    if config.resume and (output / "config.json").exists():
        old = json.loads((output / "config.json").read_text(encoding="utf-8"))
        _require_same_settings(old, new, output)
        return {name: metrics for name, metrics in read_metrics(output).items() if name in config.only and (output / name).is_dir()}
    if config.config and config.config.resolve() == (output / "config.json").resolve():
        raise TrainingError(f"--config {config.config}: its run would be replaced; give another --output-dir, or --resume to continue it")
    if config.resume:
        print(f"nothing to resume in {output}: starting from the beginning", flush=True)
    create_directory(output)
    for name in (*config.only, *RESUMABLE):
        shutil.rmtree(output / name, ignore_errors=True)
    (output / "metrics.json").unlink(missing_ok=True)
    (output / "config.json").write_text(json.dumps(new, indent=2) + "\n", encoding="utf-8")
    return {}


def create_directory(output: Path) -> None:
    """Create the output directory. Raises TrainingError if that fails."""
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"--output-dir {output} cannot be created: {error.strerror}") from error


def _require_same_settings(old: dict[str, Any], new: dict[str, Any], output: Path) -> None:
    old_settings, new_settings = old["configuration"], new["configuration"]
    names = sorted((old_settings.keys() | new_settings.keys()) - MAY_CHANGE)
    changed = [name for name in names if old_settings.get(name) != new_settings.get(name)]
    if old["dataset"] != new["dataset"]:
        changed.append("dataset (its rows)")
    if changed:
        raise TrainingError(
            f"the run in {output} has other settings ({', '.join(changed)}): give it --config {output / 'config.json'} in place of other "
            "flags, or another --output-dir, or leave out --resume to start from the beginning"
        )


def effective_settings(config: Config) -> dict[str, Any]:
    """Return the configuration as plain values, as JSON holds them. --config reads them on any machine."""
    portable = dataclasses.replace(config, base_model=portable_name(config.base_model), dataset=portable_name(config.dataset))
    settings: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(portable), default=str))
    return settings


def read_config(output: Path) -> Config:
    """Read the settings of the run in a directory. Raises TrainingError if there is none."""
    if not (output / "config.json").exists():
        raise TrainingError(f"no run in {output}: `make serve` leaves one in runs/quickstart, `python train.py` in runs/latest")
    config = load_config(output / "config.json")
    return dataclasses.replace(config, base_model=locate(config.base_model), output_dir=output)


def hyperparameters(config: Config) -> dict[str, Any]:
    """Return the settings that affect training, for experiment trackers: text, numbers, booleans or None. A resumed run has the same."""
    return {name: value for name, value in effective_settings(config).items() if name not in MAY_CHANGE}


def print_settings(config: Config) -> None:
    """Print every setting."""
    settings = (f"{name}={' '.join(value) if isinstance(value, list) else value}" for name, value in effective_settings(config).items())
    print(textwrap.fill(" · ".join(settings), 140, initial_indent="  ", subsequent_indent="  "), flush=True)


def read_metrics(output: Path) -> dict[str, dict[str, Any]]:
    """Read the metrics of the finished models, by model name."""
    path = output / "metrics.json"
    metrics: dict[str, dict[str, Any]] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return metrics


def write_metrics(metrics: dict[str, dict[str, Any]], output: Path) -> None:
    """Write `metrics.json`. A resumed run skips the models that are in it."""
    (output / "metrics.json").write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")


def run_metadata(config: Config, splits: Splits) -> dict[str, Any]:
    """Return the metadata that all models of a run share."""
    return {
        "dataset": splits.description | {"source": display_name(config.dataset)},
        "seed": config.seed,
        "configuration": effective_settings(config),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_commit": _git_commit(),
    }


def display_name(source: str) -> str:
    """Return a Hub id unchanged, and only the last part of a local path: clients can read the name, and should not see local paths."""
    path = Path(source).expanduser()
    return path.resolve().name if path.exists() else source


def _git_commit() -> str | None:
    """Return the commit of this code, with `+` if the working tree has changes; None outside a Git checkout."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return None
    return described.stdout.strip()


def print_metrics(metrics: dict[str, dict[str, Any]]) -> None:
    """Print one line per model."""
    for name, values in metrics.items():
        if name == "llm":
            print_answer_metrics(values)
            print(
                f"        {values['rows']:,} rows in {values['seconds']:.0f} s, {values['tokens_per_second']:,.0f} tokens/s; "
                f"{values['bits_per_byte']:.3f} bits per byte (base {values['base_bits_per_byte']:.3f})"
            )
        else:
            print(
                f"{name:<7} {values['bits_per_byte']:.3f} bits per byte of held-out text, perplexity {values['word_perplexity']:,.0f} "
                f"per word; {values['seconds']:.1f} s"
            )


def print_answer_metrics(metrics: dict[str, Any]) -> None:
    """Print the metrics of an LLM's answers, as `training.evaluation.answers.evaluate` returns them."""
    too_long = f"; {metrics['too_long']} were too long for the model and count as wrong" if metrics.get("too_long") else ""
    print(
        f"llm     EM {metrics['exact_match']:.1f}  F1 {metrics['f1']:.1f}  on {metrics['questions']} held-out questions{too_long}; "
        f"{100 * metrics['span_share']:.0f} % of the answers are spans"
    )
    if squad2 := metrics.get("squad2"):
        print(
            f"        with {squad2['unanswerable']} unanswerable questions: EM {squad2['exact_match']:.1f}  F1 {squad2['f1']:.1f}  "
            f"declining above {squad2['threshold']:.2f} (EM {squad2['always_answering']:.1f} if it always answered); "
            f"area under the ROC curve {squad2['auc']:.2f}; "
            f"{squad2['coverage_at_80']:.0f} % of the questions can be answered or declined with 80 % right"
        )
