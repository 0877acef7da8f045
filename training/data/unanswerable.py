"""Questions that their context does not answer: those in the data, and those made from answerable ones.

A question is made unanswerable by putting it beside another paragraph of its article that is near and lacks its answer (as the "distant"
negatives of Clark & Gardner, arXiv:1710.10723, section 3.2, are paragraphs of the same document, ranked by TF-IDF). Questions that people
wrote to be unanswerable (SQuAD 2.0, arXiv:1806.03822) are harder and teach more, so they are repeated where there are few.
"""

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer

from training.data.selection import answerable, index_contexts, is_chosen, text_hash

FAR_SHARE = 0.2
"""Share of the made questions that get a paragraph of another article: easy ones, but a user's passage may be about anything."""
MAX_REPEATS = 10
"""How often a context with unanswerable questions is repeated in an epoch, at most."""


@dataclass(frozen=True)
class Mixture:
    """Rows of which a given share is unanswerable."""

    written: Dataset
    """All questions of the contexts that people wrote unanswerable questions for."""
    repeats: int
    """How often those come up in an epoch."""
    others: Dataset
    """The questions of all other contexts."""


def mix(rows: Dataset, share: float) -> Mixture:
    """Add made questions to `rows` until `share` of an epoch is unanswerable.

    Unanswerable questions in `rows` count first: their contexts are repeated, up to `MAX_REPEATS` times. Then as many questions are made as
    are missing, at most one of each answerable question.
    """
    contexts = {context for context, answers in zip(rows["context"], rows["answers"], strict=True) if not answers["text"]}
    written, others = _split(rows, contexts)
    unanswerable = len(written) - len(answerable(written))
    repeats = min(MAX_REPEATS, max(1, int(share * len(rows) / unanswerable))) if unanswerable else 1
    answered = len(others) + repeats * (len(written) - unanswerable)
    missing = max(0.0, share / (1 - share) * answered - repeats * unanswerable)
    made, made_others = _split(make_unanswerable(answerable(rows), missing / answered), contexts)
    return Mixture(concatenate_datasets([written, made]), repeats, concatenate_datasets([others, made_others]))


def _split(rows: Dataset, contexts: set[str]) -> tuple[Dataset, Dataset]:
    """Split `rows` into those with one of `contexts`, and all others."""
    chosen = np.array([context in contexts for context in rows["context"]], dtype=bool)
    return rows.select(np.flatnonzero(chosen)), rows.select(np.flatnonzero(~chosen))


def make_unanswerable(rows: Dataset, share: float) -> Dataset:
    """Return a `share` of the answerable `rows`, each with a context that lacks all of its answers, and without answers.

    The context is the nearest one of the same article to the question (TF-IDF, cosine), and for `FAR_SHARE` of them any other. Without the
    column `title`, all rows count as one article. The same questions are chosen in every run.
    """
    chosen = [i for i, question in enumerate(rows["question"]) if is_chosen(f"unanswerable {question}", share)]
    columns = rows.select(chosen).to_dict()
    contexts = list(index_contexts(rows["context"]))
    articles = _articles(rows, contexts)
    titles = columns.get("title", [""] * len(chosen))
    columns["context"] = [""] * len(chosen)
    by_article: dict[str, list[int]] = defaultdict(list)
    for row, title in enumerate(titles):
        by_article[title].append(row)
    for title, members in by_article.items():
        questions = [columns["question"][row] for row in members]
        scores = _similarity(questions, articles[title])
        for row, question, ranked in zip(members, questions, np.argsort(-scores, kind="stable"), strict=True):
            answers = columns["answers"][row]["text"]
            near = [articles[title][n] for n in ranked]
            far = [contexts[(text_hash(question) + n) % len(contexts)] for n in range(50)]
            candidates = far + near if is_chosen(f"far {question}", FAR_SHARE) else near + far
            columns["context"][row] = next((c for c in candidates if not _tells(c, answers)), "")
    columns["answers"] = [{key: [] for key in answers} for answers in columns["answers"]]
    return Dataset.from_dict(columns, features=rows.features).filter(bool, input_columns="context")


def _articles(rows: Dataset, contexts: list[str]) -> dict[str, list[str]]:
    if "title" not in rows.column_names:
        return {"": contexts}
    articles: dict[str, dict[str, None]] = defaultdict(dict)
    for title, context in zip(rows["title"], rows["context"], strict=True):
        articles[title][context] = None
    return {title: list(members) for title, members in articles.items()}


def _similarity(questions: list[str], contexts: list[str]) -> np.ndarray:
    """Return the cosine similarity of each question to each context, shape (questions, contexts)."""
    vectorizer = TfidfVectorizer(stop_words="english")
    try:
        vectors = vectorizer.fit_transform(contexts)
    except ValueError:  # the contexts hold nothing but stop words
        return np.zeros((len(questions), len(contexts)))
    return np.asarray((vectorizer.transform(questions) @ vectors.T).toarray())


def _tells(context: str, answers: list[str]) -> bool:
    return any(answer.lower() in context.lower() for answer in answers)
