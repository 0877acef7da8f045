"""Exact match and F1 of the fine-tuned LLM, asked as the service asks it: the same engine, weights and template."""

import asyncio
from typing import Any

from datasets import Dataset
from torchmetrics.text import SQuAD
from tqdm import tqdm

from models.llm import LLM, Answer
from training.data import Row, eval_loader


def evaluate(model: LLM, rows: Dataset) -> dict[str, Any]:
    """EM and F1 in percent over all references of each row (the official SQuAD v1.1 measure), and the share of answers
    that are spans of their context.
    """
    return asyncio.run(_evaluate(model, rows))


async def _evaluate(model: LLM, rows: Dataset) -> dict[str, Any]:
    measure, spans, count = SQuAD(), 0, 0
    loader = eval_loader(rows)
    with tqdm(total=len(rows), desc="evaluating", unit="question") as bar:
        for batch in loader:
            answers = await asyncio.gather(*(_answer(model, row) for row in batch))
            for row, answer in zip(batch, answers, strict=True):
                id = str(count)
                measure.update(
                    {"id": id, "prediction_text": answer.answer},
                    {"id": id, "answers": {"text": row["answers"]["text"], "answer_start": [0] * len(row["answers"]["text"])}},
                )
                count += 1
                spans += answer.start is not None
            bar.update(len(batch))
            bar.set_postfix({name: f"{float(value):.1f}" for name, value in measure.compute().items()})
    result = measure.compute()
    return {
        "exact_match": float(result["exact_match"]),
        "f1": float(result["f1"]),
        "questions": count,
        "span_share": spans / count,
    }


async def _answer(model: LLM, row: Row) -> Answer:
    return await model.answer(row["question"], row["context"])
