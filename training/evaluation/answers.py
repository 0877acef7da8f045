"""Measure the fine-tuned LLM's answers with the engine, weights and prompt template of the service."""

import asyncio
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

from datasets import Dataset
from torchmetrics.functional.text import squad

from models.llm import LLM, Answer
from training.data.selection import eval_loader
from training.data.squad import Row
from training.evaluation.calibration import reliability
from training.progress import progress_bar


def evaluate(model: LLM, rows: Dataset, with_context: bool = True) -> dict[str, Any]:
    """Return the metrics of the answers to `rows`.

    These are EM and F1 in percent against all references of a question (SQuAD v1.1's official metrics), the share of answers
    that are spans of their context, the share that ended before the length limit, the mean length in words, and the
    `reliability` of the scores.
    """
    answers, matches = asyncio.run(answer_rows(model, rows, with_context))
    return {
        "exact_match": _mean(match["exact_match"] for match in matches),
        "f1": _mean(match["f1"] for match in matches),
        "questions": len(answers),
        **({"span_share": _mean(answer.start is not None for answer in answers)} if with_context else {}),
        "ended_share": _mean(answer.ended for answer in answers),
        "mean_answer_words": _mean(len(answer.answer.split()) for answer in answers),
        "reliability": reliability([answer.score for answer in answers], [match["exact_match"] / 100 for match in matches]),
    }


def sample_answers(model: LLM, rows: Dataset) -> list[dict[str, Any]]:
    """Return each question with its references and the model's answers, both with and without the context."""

    async def answer_twice(row: Row) -> dict[str, Any]:
        with_context, without_context = await asyncio.gather(
            model.answer(row["question"], row["context"]), model.answer(row["question"], None)
        )
        return {
            "question": row["question"],
            "references": sorted(set(row["answers"]["text"])),
            "answer": with_context.answer,
            "without_context": without_context.answer,
        }

    async def answer_all() -> list[dict[str, Any]]:
        return await asyncio.gather(*(answer_twice(row) for row in rows))

    return asyncio.run(answer_all())


async def answer_rows(model: LLM, rows: Dataset, with_context: bool) -> tuple[list[Answer], list[dict[str, float]]]:
    """Answer the answerable rows. Returns the answers, and the EM and F1 of each in percent."""
    answers: list[Answer] = []
    matches: list[dict[str, float]] = []
    description = "evaluating" if with_context else "evaluating without contexts"
    with progress_bar(total=len(rows), desc=description, unit="question") as bar:
        for batch in eval_loader(rows):
            batch_answers = await asyncio.gather(
                *(model.answer(row["question"], row["context"] if with_context else None) for row in batch)
            )
            answers += batch_answers
            matches += (_match(answer, row["answers"]["text"]) for row, answer in zip(batch, batch_answers, strict=True))
            bar.update(len(batch))
            bar.set_postfix({name: f"{_mean(match[name] for match in matches):.1f}" for name in ("exact_match", "f1")})
    return answers, matches


def _match(answer: Answer, references: list[str]) -> dict[str, float]:
    """Return the EM and F1 of one answer in percent."""
    target: Any = {"id": "", "answers": {"text": references, "answer_start": [0] * len(references)}}
    return {name: float(value) for name, value in squad({"id": "", "prediction_text": answer.answer}, target).items()}


def f1_cost(candidate: Sequence[dict[str, float]], baseline: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Return how many points of F1 the candidate loses against the baseline, and the standard error of that difference.

    Both arguments hold the EM and F1 of the same questions in the same order.
    """
    costs = [b["f1"] - c["f1"] for c, b in zip(candidate, baseline, strict=True)]
    return statistics.fmean(costs), statistics.pstdev(costs) / math.sqrt(len(costs))


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
