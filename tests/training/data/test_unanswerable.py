import pytest
from datasets import Dataset

from training.data.selection import answerable, split_articles
from training.data.squad import load_splits
from training.data.unanswerable import MAX_REPEATS, make_unanswerable, mix

WORDS = [f"{first}{second}" for first in "bcdfghjk" for second in "aeiou"]


def rows(*questions: tuple[str, str, str, str | None]) -> Dataset:
    """Return rows of (title, context, question, answer)."""
    columns = zip(*questions, strict=True)
    titles, contexts, asked, answers = (list(column) for column in columns)
    references = [{"text": [a] if a else [], "answer_start": [0] if a else []} for a in answers]
    return Dataset.from_dict({"title": titles, "context": contexts, "question": asked, "answers": references})


def unanswerable(split: Dataset) -> int:
    return len(split) - len(answerable(split))


@pytest.fixture(scope="module")
def quickstart() -> Dataset:
    return answerable(load_splits("data/quickstart").train)


def test_a_made_question_is_changed_or_stands_beside_a_paragraph_that_lacks_its_answers(quickstart: Dataset) -> None:
    made = make_unanswerable(quickstart, 1.0, 0.7)
    answers = {row["question"]: row["answers"]["text"] for row in quickstart}
    own = {row["question"]: row["context"] for row in quickstart}
    assert len(made) == len(quickstart)
    assert made.features == quickstart.features
    moved = [row for row in made if row["question"] in own]
    assert 0.2 * len(made) < len(moved) < 0.8 * len(made)
    assert {row["context"] for row in made} <= set(own.values())
    for row in made:
        assert row["answers"] == {"text": [], "answer_start": []}
    for row in moved:
        assert row["context"] != own[row["question"]]
        assert not any(answer.lower() in row["context"].lower() for answer in answers[row["question"]])


def test_without_changed_questions_all_get_another_paragraph(quickstart: Dataset) -> None:
    made = make_unanswerable(quickstart, 1.0, 0)
    assert sorted(made["question"]) == sorted(quickstart["question"])
    assert not set(zip(made["question"], made["context"], strict=True)) & set(
        zip(quickstart["question"], quickstart["context"], strict=True)
    )


def test_the_nearest_paragraph_of_the_same_article_is_taken() -> None:
    article = [("Io", "Io has many volcanoes and a lava lake.", f"Whose lava lake, as seen by {word}?", "Galileo") for word in WORDS]
    others = [("Io", "Galileo found the lava lake.", "Who?", "Galileo"), ("Io", "Europa is icy.", "What is icy?", "Europa")]
    far = [("Sea", f"Water is salty, {n}.", f"What is salty, {n}?", "Water") for n in range(20)]
    made = [row for row in make_unanswerable(rows(*article, *others, *far), 1.0, 0.7) if "lava lake, as" in row["question"]]
    beside = [row["context"] for row in made]
    assert "Galileo found the lava lake." not in beside  # it is nearer, but tells the answer
    assert len(made) * 0.5 < beside.count("Io has many volcanoes and a lava lake.") < len(made)


def test_the_same_questions_are_made_in_any_order(quickstart: Dataset) -> None:
    made = {(row["question"], row["context"]) for row in make_unanswerable(quickstart, 0.3, 0.7)}
    again = {(row["question"], row["context"]) for row in make_unanswerable(quickstart.shuffle(seed=1), 0.3, 0.7)}
    assert {question for question, _ in made} == {question for question, _ in again}
    assert 0.2 * len(quickstart) < len(made) < 0.4 * len(quickstart)


def test_a_question_that_every_paragraph_answers_is_not_made() -> None:
    assert len(make_unanswerable(rows(("a", "One.", "Which?", "one"), ("a", "One and two.", "Which two?", "One")), 1.0, 0.7)) == 0


@pytest.mark.parametrize("share", [0.1, 0.33, 0.5])
def test_the_share_is_reached_by_making_questions(quickstart: Dataset, share: float) -> None:
    mixture = mix(quickstart, share, 0.7)
    assert (len(mixture.written), mixture.repeats) == (0, 1)
    assert unanswerable(mixture.others) / len(mixture.others) == pytest.approx(share, abs=0.05)


def test_written_questions_count_first_and_their_contexts_are_repeated(quickstart: Dataset) -> None:
    written = rows(*[("w", f"Context {n}.", f"Question {n}?", None) for n in range(9)], ("w", "Context 0.", "Which?", "Context"))
    plain = quickstart.select_columns(written.column_names)
    mixture = mix(Dataset.from_list([*plain, *written], features=plain.features), 0.33, 0.7)
    assert mixture.repeats == MAX_REPEATS
    assert {f"Question {n}?" for n in range(9)} <= set(mixture.written["question"])
    assert set(mixture.written["context"]) == {f"Context {n}." for n in range(9)}
    epoch = MAX_REPEATS * len(mixture.written) + len(mixture.others)
    assert (MAX_REPEATS * unanswerable(mixture.written) + unanswerable(mixture.others)) / epoch == pytest.approx(0.33, abs=0.05)


def test_many_written_questions_need_no_others() -> None:
    split = rows(*[("w", f"Context {n}.", f"Question {n}?", None if n % 2 else "Context") for n in range(40)])
    mixture = mix(split, 0.33, 0.7)
    assert mixture.repeats == 1
    assert unanswerable(mixture.written) + unanswerable(mixture.others) == 20


def test_articles_stay_whole_and_those_with_unanswerable_questions_are_drawn_first() -> None:
    split = rows(*[(f"t{n // 10}", f"Context {n}.", f"Question {n}?", None if n // 10 == 7 and n % 2 else "Context") for n in range(100)])
    held_out, rest = split_articles(split, 25, 0)
    assert len(held_out) == 20
    assert "t7" in held_out["title"]
    assert not set(held_out["title"]) & set(rest["title"])
    assert len(held_out) + len(rest) == 100


def test_the_smallest_articles_are_held_out() -> None:
    sizes = {"a": 9, "b": 3, "c": 30, "d": 4, "e": 5}
    split = rows(*[(title, f"Context {n}.", f"Question {title} {n}?", "Context") for title, size in sizes.items() for n in range(size)])
    held_out, _ = split_articles(split, 13, 0)
    assert set(held_out["title"]) == {"b", "d", "e"}


def test_without_small_articles_contexts_are_drawn() -> None:
    split = rows(*[("t", f"Context {n // 2}.", f"Question {n}?", "Context") for n in range(40)])
    held_out, rest = split_articles(split, 5, 0)
    assert len(held_out) == 4
    assert not set(held_out["context"]) & set(rest["context"])
