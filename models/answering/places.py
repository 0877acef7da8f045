"""Where in its context an answer stands."""

import math
import re
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Sequence

WORD = re.compile(r"\w+")
SENTENCE_END = re.compile(r"[.!?]\s|\n")


def find_span(answer: str, context: str, question: str = "") -> tuple[int, int] | None:
    """Return the offsets (start, end) of an answer in a context, or None if the context does not contain it.

    If it stands there more than once, places where it cuts no word come first, and then `meant_place` decides.
    """
    starts = [match.start() for match in re.finditer(f"(?={re.escape(answer)})", context)] if answer else []
    places = [(start, start + len(answer)) for start in starts]
    whole = [place for place in places if not _cuts_a_word(context, place)]
    return meant_place(whole or places, context, question) if places else None


def meant_place(places: Sequence[tuple[int, int]], context: str, question: str) -> tuple[int, int]:
    """Return which of the `places` of an answer in `context` the question means: the one whose sentence shares most words with it.

    A word counts the less, the more often it is in the context, as in the sliding-window baseline of Richardson et al., "MCTest"
    (https://aclanthology.org/D13-1020). Of equal places, the first is taken.
    """
    if len(places) == 1:
        return places[0]
    asked, counts = set(_words(question)), Counter(_words(context))
    ends = [0, *(match.end() for match in SENTENCE_END.finditer(context)), len(context)]

    def shared_words(place: tuple[int, int]) -> float:
        sentence = context[ends[bisect_right(ends, place[0]) - 1] : ends[bisect_left(ends, place[1])]]
        return sum(math.log1p(1 / counts[word]) for word in asked.intersection(_words(sentence)))

    return max(places, key=shared_words)


def _words(text: str) -> list[str]:
    return WORD.findall(text.lower())


def _cuts_a_word(text: str, place: tuple[int, int]) -> bool:
    return any(0 < edge < len(text) and text[edge - 1].isalnum() and text[edge].isalnum() for edge in place)
