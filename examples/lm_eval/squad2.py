"""Questions that may have no answer: which rows the lm-eval tasks in this directory take, and how they score them."""

import re
import string
from collections import Counter
from typing import Any

from datasets import Dataset
from sklearn.metrics import roc_auc_score


def answerable(docs: Dataset) -> Dataset:
    """Return the rows that have an answer."""
    return docs.filter(lambda answers: bool(answers["text"]), input_columns="answers")


def score_answer(doc: dict[str, Any], results: list[str]) -> dict[str, float]:
    """Return SQuAD 2.0's metrics of one answer: a colon and the answer, or nothing."""
    answer = results[0][1:].strip() if results[0].startswith(":") else ""
    references = doc["answers"]["text"] or [""]
    exact_match = float(any(_words(reference) == _words(answer) for reference in references))
    kind = "has_answer" if doc["answers"]["text"] else "no_answer"
    return {
        "exact_match": exact_match,
        "f1": max(_f1(_words(reference), _words(answer)) for reference in references),
        f"{kind}_exact_match": exact_match,
    }


def _words(text: str) -> list[str]:
    """Return the words that count, as SQuAD's official evaluation does: without case, punctuation and articles."""
    bare = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", bare).split()


def _f1(reference: list[str], answer: list[str]) -> float:
    if not reference or not answer:
        return float(reference == answer)
    return 2 * (Counter(reference) & Counter(answer)).total() / (len(reference) + len(answer))


def score_decision(doc: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, tuple[bool, float]]:
    """Return whether the question is unanswerable, and the negative log-likelihood of an answer."""
    return {"auc": (not doc["answers"]["text"], -results[0][0])}


def area_under_curve(items: list[tuple[bool, float]]) -> float:
    """Return the area under the ROC curve; 0.5 is chance."""
    return float(roc_auc_score([unanswerable for unanswerable, _ in items], [value for _, value in items]))
