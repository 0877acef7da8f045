import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.answering.places import find_span, meant_place

LIGHT = (
    "Anna Berg kept the light from 1889. Ole Dahl painted it in 1912, and Anna Berg wrote about the storm that year. "
    "In 1912 the lamp was replaced! Its oil came from Bergen."
)


@pytest.mark.parametrize(
    ("answer", "context", "place"),
    [
        ("Norman", "Normans and a Norman knight", (14, 20)),  # the first occurrence cuts a word
        ("Norm", "Normans", (0, 4)),
        ("a a", "ba a a", (3, 6)),  # occurrences overlap
        ("1066", "in 1066, not in 1066", (3, 7)),
        ("Harold", "Normans", None),
        ("", "Normans", None),
    ],
)
def test_an_answer_is_found_where_it_cuts_no_word(answer: str, context: str, place: tuple[int, int] | None) -> None:
    assert find_span(answer, context) == place


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("Who kept the light?", "Anna Berg", "kept the light"),
        ("Who wrote about the storm?", "Anna Berg", "the storm"),
        ("When was it painted by Ole Dahl?", "1912", "painted"),
        ("When was the lamp replaced?", "1912", "lamp"),
        ("Who?", "Anna Berg", "kept the light"),  # nothing to tell them apart: the first
    ],
)
def test_the_occurrence_in_the_sentence_that_the_question_is_about_is_meant(question: str, answer: str, sentence: str) -> None:
    start, end = find_span(answer, LIGHT, question) or (0, 0)
    assert LIGHT[start:end] == answer
    around = LIGHT[LIGHT.rfind(". ", 0, start) + 1 : LIGHT.find(". ", end)]
    assert sentence in around


@given(st.text("ab. \n?", max_size=40), st.text("ab. ", max_size=4), st.text("ab ", max_size=10))
def test_a_place_is_one_of_the_answer(context: str, answer: str, question: str) -> None:
    place = find_span(answer, context, question)
    assert (place is None) == (not answer or answer not in context)
    if place:
        assert context[slice(*place)] == answer


def test_the_only_place_is_meant() -> None:
    assert meant_place([(3, 5)], "", "Which?") == (3, 5)
