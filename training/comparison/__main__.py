"""Compare the models of a finished run again.

python -m training.comparison [DIRECTORY]      the run's directory (default: runs/latest)
"""

import argparse
import sys
from pathlib import Path

from training.comparison.measurement import compare
from training.comparison.report import write_comparison_report
from training.data.squad import load_splits
from training.errors import TrainingError
from training.run import read_config, read_metrics


def main() -> None:
    """Measure the run's models, write the report, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", nargs="?", type=Path, default=Path("runs/latest"))
    directory = parser.parse_args().directory
    try:
        config, metrics = read_config(directory), read_metrics(directory)
        if not metrics:
            raise TrainingError(
                f"no model of the run in {directory} is finished: run train.py with the same flags and --resume to finish it"
            )
        page = write_comparison_report(directory, compare(config, load_splits(config.dataset), metrics), metrics)
    except TrainingError as error:
        sys.exit(f"{parser.prog}: {error}")
    print(page.read_text(encoding="utf-8").split("\n![")[0])
    print(f"plots and samples: {page}")


if __name__ == "__main__":
    main()
