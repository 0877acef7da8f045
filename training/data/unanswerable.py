"""Questions that their context does not answer: those in the data, and those made from answerable ones.

A question is made unanswerable by changing a word of it (see `training.data.contrast`), or by putting it beside another paragraph of its
article that is near and lacks its answer (as the "distant" negatives of Clark & Gardner, arXiv:1710.10723, section 3.2, are paragraphs of
the same document, ranked by TF-IDF). Questions that people wrote to be unanswerable (SQuAD 2.0, arXiv:1806.03822) are harder and teach
more, so they are repeated where there are few.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from datasets import Dataset, concatenate_datasets
from sklearn.feature_extraction.text import TfidfVectorizer

from training.data.contrast import change_question, names_in
from training.data.selection import answerable, index_contexts, is_chosen, text_hash

FAR_SHARE = 0.2
"""Share of the questions beside another paragraph for which it is one of another article: easy ones, but a user's passage may be about
anything."""
MAX_NAMES = 400
"""How many of an article's names may take the place of another."""
CANDIDATES = 20
"""How many of the nearest contexts are tried."""
BATCH = 500
"""Questions that are compared with all contexts at once."""
MAX_REPEATS = 3
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


def mix(rows: Dataset, share: float, changed_share: float) -> Mixture:
    """Add made questions (see `make_unanswerable`) to `rows` until `share` of an epoch is unanswerable.

    Unanswerable questions in `rows` count first: their contexts are repeated, up to `MAX_REPEATS` times. Then as many questions are made as
    are missing, at most one of each answerable question.
    """
    contexts = {context for context, answers in zip(rows["context"], rows["answers"], strict=True) if not answers["text"]}
    written, others = _split(rows, contexts)
    unanswerable = len(written) - len(answerable(written))
    repeats = min(MAX_REPEATS, max(1, int(share * len(rows) / unanswerable))) if unanswerable else 1
    answered = len(others) + repeats * (len(written) - unanswerable)
    missing = max(0.0, share / (1 - share) * answered - repeats * unanswerable)
    made, made_others = _split(make_unanswerable(answerable(rows), missing / max(1, answered), changed_share), contexts)
    return Mixture(concatenate_datasets([written, made]), repeats, concatenate_datasets([others, made_others]))


def _split(rows: Dataset, contexts: set[str]) -> tuple[Dataset, Dataset]:
    """Split `rows` into those with one of `contexts`, and all others."""
    chosen = np.array([context in contexts for context in rows["context"]], dtype=bool)
    return rows.select(np.flatnonzero(chosen)), rows.select(np.flatnonzero(~chosen))


def make_unanswerable(rows: Dataset, share: float, changed_share: float) -> Dataset:
    """Return a `share` of the answerable `rows`, made unanswerable. Which questions are chosen does not depend on their order.

    `changed_share` of these questions are changed, if a rule applies (see `change_question`), and keep their context. The others get one
    that lacks all of their answers: the one of the same article that is nearest to the question (TF-IDF, cosine), and for `FAR_SHARE` of
    them any other. An article with a single context, and data without the column `title`, takes the nearest of all contexts.
    """
    chosen = rows.select([i for i, question in enumerate(rows["question"]) if is_chosen(f"unanswerable {question}", share)])
    contexts, articles = list(index_contexts(rows["context"])), _articles(rows)
    changed, kept = _change_questions(chosen, articles or {"": contexts}, changed_share)
    return concatenate_datasets([changed, _change_contexts(kept, contexts, articles)])


def _change_questions(rows: Dataset, articles: dict[str, list[str]], share: float) -> tuple[Dataset, Dataset]:
    """Split `rows` into those whose questions are changed, up to `share` of them, and those that need another context."""
    names = {title: names_in("\n".join(sorted(contexts)))[:MAX_NAMES] for title, contexts in articles.items()}
    titles = rows["title"] if "title" in rows.column_names else [""] * len(rows)
    changed = [
        change_question(question, context, names[title]) if is_chosen(f"changed {question}", share) else None
        for title, context, question in zip(titles, rows["context"], rows["question"], strict=True)
    ]
    columns = rows.to_dict() | {"question": changed}
    columns["answers"] = [{key: [] for key in answers} for answers in columns["answers"]]
    others = [i for i, question in enumerate(changed) if question is None]
    return Dataset.from_dict(columns, features=rows.features).filter(bool, input_columns="question"), rows.select(others)


def _change_contexts(rows: Dataset, contexts: list[str], articles: dict[str, list[str]]) -> Dataset:
    """Give each question another context, which lacks its answers; leave out those for which there is none."""
    columns = rows.to_dict()
    members = index_contexts(title if len(articles.get(title, ())) > 1 else "" for title in columns.get("title", [""] * len(rows)))
    found = [""] * len(rows)
    for title, indices in members.items():
        nearest = _nearest([columns["question"][i] for i in indices], articles.get(title, contexts))
        for i, near in zip(indices, nearest, strict=True):
            question, answers = columns["question"][i], columns["answers"][i]["text"]
            far = [contexts[(text_hash(question) + n) % len(contexts)] for n in range(CANDIDATES)]
            candidates = far + near if is_chosen(f"far {question}", FAR_SHARE) else near + far
            found[i] = next((context for context in candidates if not _tells(context, answers)), "")
    columns["context"] = found
    columns["answers"] = [{key: [] for key in answers} for answers in columns["answers"]]
    return Dataset.from_dict(columns, features=rows.features).filter(bool, input_columns="context")


def _articles(rows: Dataset) -> dict[str, list[str]]:
    """Return the contexts of each article; nothing if the data does not name the articles."""
    if "title" not in rows.column_names:
        return {}
    articles: dict[str, dict[str, None]] = defaultdict(dict)
    for title, context in zip(rows["title"], rows["context"], strict=True):
        articles[title][context] = None
    return {title: list(members) for title, members in articles.items()}


def _nearest(questions: list[str], contexts: list[str]) -> Iterator[list[str]]:
    """Yield for each question up to `CANDIDATES` contexts, the nearest first."""
    vectorizer = TfidfVectorizer(stop_words="english")
    try:
        vectors = vectorizer.fit_transform(contexts)
    except ValueError:  # the contexts hold nothing but stop words
        yield from itertools.repeat(contexts[:CANDIDATES], len(questions))
        return
    for start in range(0, len(questions), BATCH):
        similarity = (vectorizer.transform(questions[start : start + BATCH]) @ vectors.T).toarray()
        for row in similarity:
            best = np.argpartition(-row, CANDIDATES)[:CANDIDATES] if len(row) > CANDIDATES else np.arange(len(row))
            yield [contexts[place] for place in best[np.argsort(-row[best], kind="stable")]]


def _tells(context: str, answers: list[str]) -> bool:
    return any(answer.lower() in context.lower() for answer in answers)
