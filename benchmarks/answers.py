"""Compare the answers of the serving engine, which computes in int8, with those of transformers in fp32, and check its answer scores.

    python -m benchmarks.answers --artifact runs/…/llm --dataset DIR

Both engines answer the same questions. Prints the EM and F1 of both, the difference in F1, and the scores' calibration error. Writes the
tables and a reliability diagram to runs/answers/.
"""

import argparse
import asyncio
import statistics
from contextlib import closing
from pathlib import Path

from models.answers import Answer
from models.llm import LLM
from training.data.selection import answerable, draw
from training.data.squad import load_splits
from training.evaluation.answers import answer_rows, f1_cost
from training.evaluation.calibration import calibration_error, plot_reliability, reliability
from training.figures import table

DIRECTORY = Path("runs/answers")
ENGINES = ("openvino", "transformers")


def main() -> None:
    """Ask both engines the same questions; print and write the comparison."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifact", type=Path, required=True, help="the directory of a fine-tuned LLM")
    parser.add_argument("--dataset", default="data/quickstart", help="a directory or Hub id in SQuAD's schema (default: data/quickstart)")
    parser.add_argument("--questions", type=int, default=500, help="the number of test questions (default: 500)")
    arguments = parser.parse_args()
    rows = draw(answerable(load_splits(arguments.dataset).test), arguments.questions, 0)
    answers: dict[str, list[Answer]] = {}
    matches: dict[str, list[dict[str, float]]] = {}
    for engine in ENGINES:
        with closing(LLM.load(arguments.artifact, engine)) as llm:
            answers[engine], matches[engine] = asyncio.run(answer_rows(llm, rows, with_context=True))
    metrics = [
        (engine, *(f"{statistics.fmean(match[name] for match in matches[engine]):.1f}" for name in ("exact_match", "f1")))
        for engine in ENGINES
    ]
    cost, error = f1_cost(*(matches[engine] for engine in ENGINES))
    equal = statistics.fmean(a.answer == b.answer for a, b in zip(*(answers[engine] for engine in ENGINES), strict=True))
    bins = reliability([answer.score for answer in answers["openvino"]], [match["exact_match"] / 100 for match in matches["openvino"]])
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    plot_reliability(DIRECTORY, bins)
    sections = [
        table(("engine", "EM", "F1"), metrics),
        f"openvino's F1 is {cost:.2f} ± {error:.2f} points lower on {len(rows)} questions; {equal:.1%} of the answers are the same.",
        f"On average a score differs by {calibration_error(bins):.1%} from the share of exact answers (expected calibration error).",
        table(("score", "exact", "answers"), [(f"{bin['score']:.2f}", f"{bin['correct']:.2f}", f"{bin['answers']}") for bin in bins]),
    ]
    (DIRECTORY / "answers.md").write_text("\n\n".join([*sections, "![Share of exact answers by score](reliability.png)"]) + "\n")
    print("\n\n".join(sections))


if __name__ == "__main__":
    main()
