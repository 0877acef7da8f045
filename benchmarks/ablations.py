"""Compare each choice of the fine-tuning with its alternatives: the tables of docs/benchmarks.md.

    python benchmarks/ablations.py --dataset DIR [NAME …]

A variant takes a few minutes; one that runs/ablations already holds is not trained again. All variants have the same budget of steps ×
tokens per step. It is not a budget of minutes, so a busy machine changes only the tokens/s.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parent.parent
TOKEN_BUDGET = 40 * 2048
"""The tokens that each variant trains on: 40 steps of the reference."""
REFERENCE = (
    "--base-model smollm2 --only llm --no-register --validations 0 --eval-examples 300 --no-int8-check "
    "--learning-rate 1e-4 --batch-tokens 2048 --text-share 0.1 --text-weight 0.1 --context-free-share 0.1 --unanswerable-share 0"
)
ABSTAINING = "--learning-rate 2e-4 --text-weight 1 --batch-tokens 1024 --unanswerable-share 0.33 --eval-examples 2000"
"""The defaults, evaluated on enough questions to compare areas under the ROC curve. For data with unanswerable questions."""
VARIANTS = {
    "reference": "",
    "context repeated": "--no-share-context",
    "question twice": "--prompt question-twice",
    "lr 5e-5": "--learning-rate 5e-5",
    "lr 2e-4": "--learning-rate 2e-4",
    "lr 4e-4": "--learning-rate 4e-4",
    "batch 1024": "--batch-tokens 1024",
    "batch 4096": "--batch-tokens 4096",
    "prompt weight 0.02": "--prompt-weight 0.02",
    "dropout 0.1": "--dropout 0.1",
    "no mixture": "--text-share 0 --context-free-share 0",
    "lr 2e-4, text 0.5": "--learning-rate 2e-4 --text-weight 0.5",
    "the same, batch 1024": "--learning-rate 2e-4 --text-weight 0.5 --batch-tokens 1024",
    **{f"batch 4096, lr {rate}": f"--text-weight 0.5 --batch-tokens 4096 --learning-rate {rate}" for rate in ("2e-4", "4e-4", "8e-4")},
    **{f"decision weight {weight}": f"{ABSTAINING} --decision-weight {weight}" for weight in (1, 4, 24, 100)},
    "no changed questions": f"{ABSTAINING} --changed-share 0",
    "lower layers at lower rates": f"{ABSTAINING} --learning-rate 4e-4 --bottom-rate 0.12",
}


def run(name: str, dataset: str) -> dict[str, Any]:
    """Return the metrics of a variant. Trains it, unless an earlier call did."""
    output = PROJECT / "runs/ablations" / name.replace(" ", "-")
    flags = VARIANTS[name].split()
    batch = int(flags[flags.index("--batch-tokens") + 1]) if "--batch-tokens" in flags else 2048
    if not (output / "metrics.json").exists() or "llm" not in json.loads((output / "metrics.json").read_text()):
        command = [sys.executable, "train.py", *REFERENCE.split(), "--dataset", dataset, "--max-steps", str(TOKEN_BUDGET // batch), *flags]
        subprocess.run([*command, "--output-dir", str(output)], cwd=PROJECT, check=True)
    metrics: dict[str, Any] = json.loads((output / "metrics.json").read_text())["llm"]
    return metrics


def main() -> None:
    """Run the named variants, or all, and print a table with one row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"the variants to run, all by default: {', '.join(VARIANTS)}")
    parser.add_argument("--dataset", default="rajpurkar/squad", help="a directory or Hub id in SQuAD's schema (default: rajpurkar/squad)")
    arguments = parser.parse_args()
    measured = {name: run(name, arguments.dataset) for name in arguments.names or VARIANTS}
    print("| variant | flags | questions | EM | F1 | ROC area | bits per byte | tokens/s |\n|---|---|---|---|---|---|---|---|")
    for name, metrics in measured.items():
        area = f"{metrics['squad2']['auc']:.3f}" if "squad2" in metrics else ""
        print(
            f"| {name} | `{VARIANTS[name]}` | {metrics['rows']:,} | {metrics['exact_match']:.1f} | {metrics['f1']:.1f} | {area} | "
            f"{metrics['bits_per_byte']:.4f} | {metrics['tokens_per_second']:,.0f} |"
        )


if __name__ == "__main__":
    main()
