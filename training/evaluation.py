"""What the fine-tuned LLM answers, asked as the service asks it: the same engine, weights and template."""

import asyncio
from typing import Any

from datasets import Dataset
from torchmetrics.text import SQuAD
from tqdm import tqdm

from models.llm import LLM
from training.data import Row, eval_loader


def evaluate(model: LLM, rows: Dataset, with_context: bool = True) -> dict[str, Any]:
    """EM and F1 in percent over all references of each row (the official SQuAD v1.1 measure), the share of answers that are spans
    of their context, of those that ended before the limit, and their mean length in words.
    """
    return asyncio.run(_evaluate(model, rows, with_context))


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


async def _evaluate(model: LLM, rows: Dataset, with_context: bool) -> dict[str, Any]:
    measure = SQuAD(sync_on_compute=False)  # the other processes do not evaluate
    spans, ended, words, count = 0, 0, 0, 0
    description = "evaluating" if with_context else "evaluating without contexts"
    with tqdm(total=len(rows), desc=description, unit="question") as bar:
        for batch in eval_loader(rows):
            answers = await asyncio.gather(*(model.answer(row["question"], row["context"] if with_context else None) for row in batch))
            for row, answer in zip(batch, answers, strict=True):
                id = str(count)
                measure.update(
                    {"id": id, "prediction_text": answer.answer},
                    {"id": id, "answers": {"text": row["answers"]["text"], "answer_start": [0] * len(row["answers"]["text"])}},
                )
                count += 1
                spans += answer.start is not None
                ended += answer.ended
                words += len(answer.answer.split())
            bar.update(len(batch))
            bar.set_postfix({name: f"{float(value):.1f}" for name, value in measure.compute().items()})
    result = measure.compute()
    return {
        "exact_match": float(result["exact_match"]),
        "f1": float(result["f1"]),
        "questions": count,
        **({"span_share": spans / count} if with_context else {}),
        "ended_share": ended / count,
        "mean_answer_words": words / count,
    }
