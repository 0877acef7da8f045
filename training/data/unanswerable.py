"""Questions that their context does not answer: those in the data, and those made from answerable ones.

A question is made unanswerable by changing a word of it (see `training.data.contrast`), or by putting it beside another paragraph of its
article that is near and lacks its answer (as the "distant" negatives of Clark & Gardner, arXiv:1710.10723, section 3.2, are paragraphs of
the same document, ranked by TF-IDF). Questions that people wrote to be unanswerable (SQuAD 2.0, arXiv:1806.03822) are harder and teach
more, so they are repeated where there are few.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from datasets import Column, Dataset, concatenate_datasets
from datasets.fingerprint import Hasher
from sklearn.feature_extraction.text import TfidfVectorizer

from training.data.contrast import change_question, names_in
from training.data.hashing import group_rows, hash_texts, is_chosen, text_hash
from training.data.selection import answerable, contexts, has_answer, split_rows

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
    hashes = hash_texts(rows["context"])
    with_unanswerable = hashes[~has_answer(rows)]
    written, others = split_rows(rows, np.isin(hashes, with_unanswerable))
    unanswerable = len(written) - len(answerable(written))
    repeats = min(MAX_REPEATS, max(1, int(share * len(rows) / unanswerable))) if unanswerable else 1
    answered = len(others) + repeats * (len(written) - unanswerable)
    missing = max(0.0, share / (1 - share) * answered - repeats * unanswerable)
    new = make_unanswerable(answerable(rows), missing / max(1, answered), changed_share)
    made, made_others = split_rows(new, np.isin(hash_texts(new["context"]), with_unanswerable))
    return Mixture(concatenate_datasets([written, made]), repeats, concatenate_datasets([others, made_others]))


def make_unanswerable(rows: Dataset, share: float, changed_share: float) -> Dataset:
    """Return a `share` of the answerable `rows`, made unanswerable. Which questions are chosen does not depend on their order.

    `changed_share` of these questions are changed, if a rule applies (see `change_question`), and keep their context. The others get one
    that lacks all of their answers: the one of the same article that is nearest to the question (TF-IDF, cosine), and for `FAR_SHARE` of
    them any other. An article with a single context, and data without the column `title`, takes the nearest of all contexts.
    """
    chosen = rows.select([i for i, question in enumerate(rows["question"]) if is_chosen(f"unanswerable {question}", share)])
    texts, articles = contexts(rows), _articles(rows)
    changed, kept = _change_questions(chosen, texts, articles or {"": list(range(len(texts)))}, changed_share)
    return concatenate_datasets([changed, _change_contexts(kept, texts, articles)])


def _change_questions(rows: Dataset, contexts: Column, articles: dict[str, list[int]], share: float) -> tuple[Dataset, Dataset]:
    """Split `rows` into those whose questions are changed, up to `share` of them, and those that need another context."""
    names = {title: names_in("\n".join(sorted(contexts[members])))[:MAX_NAMES] for title, members in articles.items()}
    titles = rows["title"] if "title" in rows.column_names else [""] * len(rows)
    changed = [
        change_question(question, context, names[title]) if is_chosen(f"changed {question}", share) else None
        for title, context, question in zip(titles, rows["context"], rows["question"], strict=True)
    ]
    is_changed = np.array([question is not None for question in changed], bool)
    to_change, others = split_rows(rows, is_changed)
    return _replace(to_change, "question", [question for question in changed if question is not None]), others


def _change_contexts(rows: Dataset, contexts: Column, articles: dict[str, list[int]]) -> Dataset:
    """Give each question another context, which lacks its answers; leave out those for which there is none."""
    everywhere = list(range(len(contexts)))
    titles = rows["title"] if "title" in rows.column_names else [""] * len(rows)
    found = np.full(len(rows), -1)
    for group in group_rows(title if len(articles.get(title, ())) > 1 else "" for title in titles):
        members = articles.get(titles[int(group[0])], everywhere)
        members = members if len(members) > 1 else everywhere
        part = rows.select(group)
        nearest = _nearest(list(part["question"]), contexts[members])
        for i, question, references, places in zip(group, part["question"], part["answers"], nearest, strict=True):
            near = [members[place] for place in places]
            far = [(text_hash(question) + n) % len(contexts) for n in range(CANDIDATES)]
            candidates = far + near if is_chosen(f"far {question}", FAR_SHARE) else near + far
            found[i] = next((number for number in candidates if not _tells(contexts[number], references["text"])), -1)
    return _replace(rows.select(np.flatnonzero(found >= 0)), "context", found[found >= 0].tolist(), contexts.__getitem__)


def _replace(rows: Dataset, column: str, values: list[Any], read: Callable[[Any], str] = str) -> Dataset:
    """Return `rows` without answers and with other texts in a column: what `read` returns for each of `values`."""

    def change(answers: dict[str, Any], index: int) -> dict[str, Any]:
        return {column: read(values[index]), "answers": {key: [] for key in answers}}

    return rows.map(
        change,
        with_indices=True,
        input_columns="answers",
        features=rows.features,
        new_fingerprint=Hasher.hash([rows._fingerprint, column, values]),
        desc="making questions that have no answer",
    )


def _articles(rows: Dataset) -> dict[str, list[int]]:
    """Return the numbers of the contexts of each article, as `contexts` counts them; nothing if the data does not name the articles."""
    if "title" not in rows.column_names:
        return {}
    numbers = np.empty(len(rows), np.int64)
    for number, group in enumerate(group_rows(rows["context"])):
        numbers[group] = number
    groups, titles = group_rows(rows["title"]), rows["title"]
    return {titles[int(group[0])]: list(dict.fromkeys(numbers[group].tolist())) for group in groups}


def _nearest(questions: list[str], contexts: list[str]) -> Iterator[list[int]]:
    """Yield for each question the places of up to `CANDIDATES` contexts, the nearest first."""
    vectorizer = TfidfVectorizer(stop_words="english")
    try:
        vectors = vectorizer.fit_transform(contexts)
    except ValueError:  # the contexts hold nothing but stop words
        yield from itertools.repeat(list(range(min(CANDIDATES, len(contexts)))), len(questions))
        return
    for start in range(0, len(questions), BATCH):
        similarity = (vectorizer.transform(questions[start : start + BATCH]) @ vectors.T).toarray()
        for row in similarity:
            best = np.argpartition(-row, CANDIDATES)[:CANDIDATES] if len(row) > CANDIDATES else np.arange(len(row))
            yield best[np.argsort(-row[best], kind="stable")].tolist()


def _tells(context: str, answers: list[str]) -> bool:
    return any(answer.lower() in context.lower() for answer in answers)
