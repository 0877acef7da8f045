"""What the fine-tuned LLM answers, asked as the service asks it: the same engine, weights and template."""

import asyncio
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset
from torchmetrics.functional.text import squad
from tqdm import tqdm

from models.llm import LLM, Answer
from training.data.selection import eval_loader
from training.data.squad import Row
from training.evaluation.calibration import reliability


def evaluate(model: LLM, rows: Dataset, with_context: bool = True) -> dict[str, Any]:
    """EM and F1 in percent over all references of each row (the official SQuAD v1.1 measure), the share of answers that are spans
    of their context, of those that ended before the limit, their mean length in words, and what their score is worth (`reliability`).
    """
    answers, matches = asyncio.run(ask(model, rows, with_context))
    return {
        "exact_match": _mean(match["exact_match"] for match in matches),
        "f1": _mean(match["f1"] for match in matches),
        "questions": len(answers),
        **({"span_share": _mean(answer.start is not None for answer in answers)} if with_context else {}),
        "ended_share": _mean(answer.ended for answer in answers),
        "mean_answer_words": _mean(len(answer.answer.split()) for answer in answers),
        "reliability": reliability([answer.score for answer in answers], [match["exact_match"] / 100 for match in matches]),
    }


def show_answers(model: LLM, rows: Dataset) -> list[dict[str, Any]]:
    """Each question with the references and the model's answer, with the context and without: to look at."""

    async def both(row: Row) -> dict[str, Any]:
        inside, outside = await asyncio.gather(model.answer(row["question"], row["context"]), model.answer(row["question"], None))
        return {
            "question": row["question"], "references": sorted(set(row["answers"]["text"])),
            "answer": inside.answer, "without_context": outside.answer,
        }  # fmt: skip

    async def every() -> list[dict[str, Any]]:
        return await asyncio.gather(*(both(row) for row in rows))

    return asyncio.run(every())


async def ask(model: LLM, rows: Dataset, with_context: bool) -> tuple[list[Answer], list[dict[str, float]]]:
    """The answer to each row, and its EM and F1 in percent."""
    answers: list[Answer] = []
    matches: list[dict[str, float]] = []
    description = "evaluating" if with_context else "evaluating without contexts"
    with tqdm(total=len(rows), desc=description, unit="question") as bar:
        for batch in eval_loader(rows):
            given = await asyncio.gather(*(model.answer(row["question"], row["context"] if with_context else None) for row in batch))
            answers += given
            matches += (_match(answer, row["answers"]["text"]) for row, answer in zip(batch, given, strict=True))
            bar.update(len(batch))
            bar.set_postfix({name: f"{_mean(match[name] for match in matches):.1f}" for name in ("exact_match", "f1")})
    return answers, matches


def _match(answer: Answer, references: list[str]) -> dict[str, float]:
    """EM and F1 of one answer, in percent."""
    target: Any = {"id": "", "answers": {"text": references, "answer_start": [0] * len(references)}}
    return {name: float(value) for name, value in squad({"id": "", "prediction_text": answer.answer}, target).items()}


def f1_cost(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]]) -> tuple[float, float]:
    """By how many points our F1 is lower than theirs, of the same questions in the same order, and the standard error of that."""
    costs = [other["f1"] - one["f1"] for one, other in zip(ours, theirs, strict=True)]
    return statistics.fmean(costs), statistics.pstdev(costs) / math.sqrt(len(costs))


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
