import re

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from training.data.contrast import NUMBER, change_question, names_in
from training.data.selection import answerable, contexts
from training.data.squad import load_splits

CONTEXT = "In 1610 Galileo found the largest moons of Jupiter from Padua. They were the first moons seen through a telescope."
NAMES = ["Galileo", "Jupiter", "Padua", "Christiaan Huygens", "Huygens", "Titan"]


@pytest.fixture(scope="module")
def rows() -> Dataset:
    return answerable(load_splits("data/quickstart").train)


def changes(question: str) -> set[str]:
    """Return what becomes of a question: its spelling with more or fewer spaces decides which rule is tried first."""
    spellings = [question + " " * count for count in range(60)]
    return {changed.strip() for spelling in spellings if (changed := change_question(spelling, CONTEXT, NAMES))}


def test_a_name_becomes_one_that_the_context_lacks() -> None:
    assert changes("What did Galileo see?") == {"What did Huygens see?", "What did Titan see?", "What didn't Galileo see?"}


def test_a_name_is_not_replaced_if_the_context_has_all_names() -> None:
    assert change_question("Where is Padua?", CONTEXT + " Huygens and Christiaan Huygens saw Titan.", NAMES) == "Where isn't Padua?"


def test_a_number_becomes_another_of_its_size() -> None:
    changed = changes("Whose moons, seen in 1610?")
    years = {int(year) for question in changed if (year := re.search(r"\d+", question)[0]) != "1610"}  # type: ignore[index]
    assert years
    assert all(1580 <= year <= 1640 for year in years)


def test_a_word_becomes_its_opposite() -> None:
    assert changes("Which moons are the largest?") == {"Which moons are the smallest?", "Which moons aren't the largest?"}


def test_how_long_stays() -> None:
    assert changes("How long was the telescope?") == {"How long wasn't the telescope?"}


def test_a_question_that_no_rule_fits_is_left_out() -> None:
    assert change_question("Whose telescope?", CONTEXT, NAMES) is None
    assert change_question("", "", []) is None


def test_names_leave_out_the_beginning_of_a_question() -> None:
    assert names_in("What did Galileo Galilei and the University of Padua find?") == ["Galileo Galilei", "University of Padua"]


def test_what_is_put_into_a_question_is_not_in_its_context(rows: Dataset) -> None:
    names = names_in("\n".join(contexts(rows)))
    changed = [(row, other) for row in rows if (other := change_question(row["question"], row["context"], names))]
    assert len(changed) > len(rows) / 2
    for row, other in changed:
        assert other != row["question"]
        new = {*NUMBER.findall(other), *names_in(other)} - {*NUMBER.findall(row["question"]), *names_in(row["question"])}
        assert not [text for text in new & {*NUMBER.findall(other), *names} if text in row["context"]]


@given(st.text(max_size=80), st.text(max_size=80), st.lists(st.text(min_size=1, max_size=9), max_size=5))
def test_any_text_can_be_given(question: str, context: str, names: list[str]) -> None:
    changed = change_question(question, context, names)
    assert changed is None or changed != question
