"""Measure the fine-tuned LLM's answers with the engine, weights and prompt template of the service."""

import asyncio
import itertools
import math
import statistics
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from torchmetrics.functional.text import squad

from models.answering.answers import DEFAULT_OPTIONS, Answer, AnswerOptions
from models.base import PromptTooLong
from models.llm import LLM
from training.data.selection import answerable, eval_loader
from training.data.squad import Row
from training.evaluation.abstention import Outcomes, bootstrap_error, squad2_metrics
from training.evaluation.calibration import reliability
from training.progress import progress_bar

ALWAYS = AnswerOptions(no_answer_threshold=1)
TOO_LONG = Answer(None, 0.0, 0.0, 0.0, None, None, tokens=0, ended=False)
"""In place of the answer to a question that does not fit into the model's context with its passage."""


def evaluate(model: LLM, rows: Dataset, with_context: bool = True) -> dict[str, Any]:
    """Return the metrics of the answers to `rows`.

    These are EM and F1 in percent of the answerable questions against all their references, if the model always answers (SQuAD
    v1.1's official metrics), with their standard errors; the share of answers that are spans of their context, the share that ended before
    the length limit, and the mean length in words. If there are unanswerable questions, `squad2` has the metrics of all rows (see
    `squad2_metrics`). `reliability` is that of the scores as the service gives them. A question that is too long for the model counts as
    wrong; `too_long` is their number.
    """
    rows = rows if with_context else answerable(rows)
    answers, matches = asyncio.run(answer_rows(model, rows, with_context))
    is_answerable = [bool(references["text"]) for references in rows["answers"]]
    contexts = list(itertools.compress(rows["context"], is_answerable))
    answered = list(itertools.compress(answers, is_answerable))
    metrics: dict[str, Any] = {}
    for name in ("exact_match", "f1"):
        values = [match[name] for match in itertools.compress(matches, is_answerable)]
        metrics |= {name: _mean(values), f"{name}_error": bootstrap_error(values, contexts)}
    metrics |= {
        "questions": len(answered),
        "too_long": sum(answer is TOO_LONG for answer in answers),
        **({"span_share": _mean(answer.start is not None for answer in answered)} if with_context else {}),
        "ended_share": _mean(answer.ended for answer in answered),
        "mean_answer_words": _mean(len((answer.answer or "").split()) for answer in answered),
    }
    threshold = model.answers.no_answer_threshold if with_context else 1.0
    found = outcomes(answers, matches, rows)
    if not all(is_answerable):
        metrics["squad2"] = squad2_metrics(found, threshold)
    return metrics | {"reliability": reliability(found.confidence_at(threshold).tolist(), found.exact_match_at(threshold).tolist())}


def outcomes(answers: Sequence[Answer], matches: Sequence[dict[str, float]], rows: Dataset) -> Outcomes:
    """Return the outcomes of a model that, asked to, always answers; see `answer_rows`.

    A model that was not trained to decline gives no probability of no answer: the probability that its answer is wrong takes its place.
    """
    return Outcomes(
        unanswerable=np.array([not references["text"] for references in rows["answers"]]),
        exact_match=np.array([match["exact_match"] / 100 for match in matches]),
        f1=np.array([match["f1"] / 100 for match in matches]),
        likelihood=np.array([answer.likelihood for answer in answers]),
        score=np.array([answer.score for answer in answers]),
        no_answer=np.array([_no_answer_probability(answer) for answer in answers]),
        contexts=rows["context"],
    )


def _no_answer_probability(answer: Answer) -> float:
    return 1 - answer.score if answer.no_answer_probability is None else answer.no_answer_probability


def sample_answers(model: LLM, rows: Dataset) -> list[dict[str, Any]]:
    """Return each question with its references and the model's answers, both with and without the context."""

    async def answer_twice(row: Row) -> dict[str, Any]:
        with_context, without_context = await asyncio.gather(
            _answer(model, row["question"], row["context"]), _answer(model, row["question"], None)
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
    """Answer all rows, without ever declining. Returns the answers, and the EM and F1 of each in percent, 0 for unanswerable ones.

    The answer to a question that is too long is `TOO_LONG`.
    """
    answers: list[Answer] = []
    matches: list[dict[str, float]] = []
    description = "evaluating" if with_context else "evaluating without contexts"
    with progress_bar(total=len(rows), desc=description, unit="question") as bar:
        for batch in eval_loader(rows):
            batch_answers = await asyncio.gather(
                *(_answer(model, row["question"], row["context"] if with_context else None, ALWAYS) for row in batch)
            )
            answers += batch_answers
            matches += (_match(answer, row["answers"]["text"]) for row, answer in zip(batch, batch_answers, strict=True))
            bar.update(len(batch))
            bar.set_postfix({name: f"{_mean(match[name] for match in matches):.1f}" for name in ("exact_match", "f1")})
    return answers, matches


async def _answer(model: LLM, question: str, context: str | None, options: AnswerOptions = DEFAULT_OPTIONS) -> Answer:
    try:
        return await model.answer(question, context, options)
    except PromptTooLong:
        return TOO_LONG


def _match(answer: Answer, references: list[str]) -> dict[str, float]:
    """Return the EM and F1 of one answer in percent."""
    if not references:
        return {"exact_match": 0.0, "f1": 0.0}
    target: Any = {"id": "", "answers": {"text": references, "answer_start": [0] * len(references)}}
    return {name: float(value) for name, value in squad({"id": "", "prediction_text": answer.answer or ""}, target).items()}


def f1_cost(candidate: Sequence[dict[str, float]], baseline: Sequence[dict[str, float]]) -> tuple[float, float]:
    """Return how many points of F1 the candidate loses against the baseline, and the standard error of that difference.

    Both arguments hold the EM and F1 of the same questions in the same order.
    """
    costs = [b["f1"] - c["f1"] for c, b in zip(candidate, baseline, strict=True)]
    return statistics.fmean(costs), statistics.pstdev(costs) / math.sqrt(len(costs))


def _mean(values: Iterable[float]) -> float:
    return statistics.fmean(values)
