import pytest
from hypothesis import given
from hypothesis import strategies as st

from training.evaluation.calibration import calibration_error, reliability

ANSWERS = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(ANSWERS, st.integers(1, 12))
def test_every_answer_is_in_exactly_one_bin_by_score(answers: list[tuple[float, bool]], bins: int) -> None:
    scores, correct = zip(*answers, strict=True)
    parts = reliability(scores, correct, bins)
    assert sum(part["answers"] for part in parts) == len(answers)
    assert [part["score"] for part in parts] == pytest.approx(sorted(part["score"] for part in parts))
    assert max(part["answers"] for part in parts) - min(part["answers"] for part in parts) <= 1
    assert sum(part["correct"] * part["answers"] for part in parts) == pytest.approx(sum(correct))
    assert 0 <= calibration_error(parts) <= 1


def test_calibration_error_is_the_distance_between_score_and_accuracy() -> None:
    assert calibration_error(reliability([1.0] * 10, [True] * 10)) == 0
    assert calibration_error(reliability([1.0] * 10, [False] * 10)) == 1
    assert calibration_error(reliability([0.9] * 10 + [0.1] * 10, [True] * 9 + [False] + [True] + [False] * 9, 2)) == pytest.approx(0)
