"""What the serving engine's int8 arithmetic costs in answers, and what its scores are worth: the same questions to it and to the reference,
transformers in fp32.

    python -m benchmarks.answers --artifact runs/…/llm --dataset DIR

Prints EM and F1 of both and their difference, and the calibration error; draws the reliability of the scores. Writes runs/answers/.
"""

import argparse
import asyncio
import statistics
from contextlib import closing
from pathlib import Path

from models.llm import LLM, Answer
from training.data.selection import draw
from training.data.squad import load_splits
from training.evaluation.answers import ask, f1_cost
from training.evaluation.calibration import calibration_error, plot_reliability, reliability
from training.figures import table

DIRECTORY = Path("runs/answers")
ENGINES = ("openvino", "transformers")


def main() -> None:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True)
    parser.add_argument("--dataset", default="data/quickstart")
    parser.add_argument("--questions", type=int, default=500)
    given = parser.parse_args()
    rows = draw(load_splits(given.dataset).test, given.questions, 0)
    answers: dict[str, list[Answer]] = {}
    matches: dict[str, list[dict[str, float]]] = {}
    for engine in ENGINES:
        with closing(LLM.load(given.artifact, engine)) as llm:
            answers[engine], matches[engine] = asyncio.run(ask(llm, rows, with_context=True))
    lines = [
        (engine, *(f"{statistics.fmean(match[name] for match in matches[engine]):.1f}" for name in ("exact_match", "f1")))
        for engine in ENGINES
    ]
    ours, theirs = (matches[engine] for engine in ENGINES)
    cost, error = f1_cost(ours, theirs)
    equal = statistics.fmean(one.answer == other.answer for one, other in zip(*(answers[engine] for engine in ENGINES), strict=True))
    bins = reliability([answer.score for answer in answers["openvino"]], [match["exact_match"] / 100 for match in ours])
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    plot_reliability(DIRECTORY, bins)
    page = [
        table(("engine", "EM", "F1"), lines),
        f"openvino's F1 is lower by {cost:.2f} ± {error:.2f} points on {len(rows)} questions; {equal:.1%} of the answers are the same.",
        f"The scores are {calibration_error(bins):.1%} from the share of exact answers on average (calibration error).",
        table(("score", "exact", "answers"), [(f"{bin['score']:.2f}", f"{bin['correct']:.2f}", f"{bin['answers']}") for bin in bins]),
    ]
    (DIRECTORY / "answers.md").write_text("\n\n".join([*page, "![Share of exact answers by score](reliability.png)"]) + "\n")
    print("\n\n".join(page))


if __name__ == "__main__":
    main()
