"""Change a question so little that it looks answerable, and so much that its context no longer answers it.

The changes are those of Jia & Liang, "Adversarial Examples for Evaluating Reading Comprehension Systems" (arXiv:1707.07328, section
3.2), and of the questions that people wrote for SQuAD 2.0 (arXiv:1806.03822, table 1): another name, another number, an antonym, a
negation. Rules in place of a parser are wrong now and then: a changed question may read badly, and a few remain answerable.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from training.data.hashing import text_hash

NEGATION_SHARE = 0.2
"""How often a question that can be changed otherwise is negated: a model soon learns that "not" means no answer, and little else."""
NAMES_TRIED = 20
OPPOSITES = """
able unable, above below, accepted rejected, added removed, advantages disadvantages, agreed disagreed, allies enemies, allow forbid,
allowed forbidden, always never, ancient modern, appointed dismissed, attacked defended, before after, began ended, beginning end,
best worst, better worse, big small, bigger smaller, biggest smallest, born killed, bought sold, built destroyed, buy sell,
cause prevent, caused prevented, causes prevents, closest farthest, common rare, commonly rarely, contain lack, contains lacks,
created destroyed, day night, deep shallow, defeat victory, died born, domestic foreign, earlier later, earliest latest, early late,
east west, eastern western, encouraged discouraged, entered left, established abolished, expanded shrank, export import,
exported imported, exports imports, far near, fast slow, faster slower, fastest slowest, father mother, favored opposed, fewer more,
first last, formal informal, founded dissolved, gained lost, give take, given denied, good bad, heavy light, helped hindered,
high low, higher lower, highest lowest, hot cold, husband wife, important unimportant, include exclude, included excluded,
includes excludes, increase decrease, increased decreased, increases decreases, increasing decreasing, inner outer, inside outside,
internal external, joined left, king queen, known unknown, large small, larger smaller, largest smallest, least most, legal illegal,
less more, light dark, like dislike, long short, longer shorter, longest shortest, main secondary, major minor, majority minority,
male female, man woman, many few, maximum minimum, men women, multiple single, nearest farthest, necessary unnecessary, new old,
newer older, north south, northeast southwest, northern southern, northwest southeast, often rarely, oldest youngest,
opened closed, peace war, permanent temporary, popular unpopular, positive negative, possible impossible, praised criticized,
primary secondary, private public, profit loss, raised lowered, require forbid, rich poor, right left, rise fall, rose fell,
same different, similar different, son daughter, started stopped, strong weak, stronger weaker, student teacher, succeeded failed,
success failure, successful unsuccessful, summer winter, support oppose, supported opposed, supporters opponents, top bottom,
upper lower, urban rural, usually rarely, warm cold, wide narrow, win lose, winner loser, won lost, young old, younger older
"""
NEGATED = {
    "are": "aren't", "can": "can't", "could": "couldn't", "did": "didn't", "do": "don't", "does": "doesn't", "had": "hadn't",
    "has": "hasn't", "have": "haven't", "is": "isn't", "should": "shouldn't", "was": "wasn't", "were": "weren't", "will": "won't",
    "would": "wouldn't",
}  # fmt: skip
QUESTION_WORDS = {
    "a", "about", "according", "after", "along", "an", "and", "are", "as", "at", "before", "by", "did", "do", "does", "during", "for",
    "from", "how", "however", "if", "in", "into", "is", "it", "its", "name", "of", "on", "since", "that", "the", "their", "there", "these",
    "they", "this", "to", "under", "was", "were", "what", "when", "where", "which", "who", "whom", "whose", "why", "with",
}  # fmt: skip
"""Words that are no names although a sentence may begin with them."""
NAME = re.compile(r"\b[A-Z][\w'’-]*(?: (?:of |the |de )?[A-Z][\w'’-]*)*")
NUMBER = re.compile(r"\b\d[\d,]*(?:\.\d+)?\b")
YEAR = re.compile(r"1\d{3}|20\d{2}")
WORD = re.compile(r"[A-Za-z]+")
OPPOSABLE = re.compile(r"(?<![Hh]ow )\b[A-Za-z]+")
"""Words whose opposite changes a question: "how short" asks the same as "how long"."""


def change_question(question: str, context: str, names: Sequence[str]) -> str | None:
    """Return a question that `context` does not answer, changed from one that it answers; None if no rule applies.

    `names` are those of the same subject: one that the context lacks may replace one that it has. The same question is always changed in
    the same way.
    """
    generator = random.Random(text_hash(f"change {question}"))
    original = _Question(question, context, names, generator)
    rules = [original.with_another_name, original.with_another_number, original.with_an_opposite]
    generator.shuffle(rules)
    rules.insert(0 if generator.random() < NEGATION_SHARE else len(rules), original.negated)
    return next((changed for rule in rules if (changed := rule())), None)


def names_in(text: str) -> list[str]:
    """Return the names in a text: capitalized words that are not question words, which a sentence may begin with."""
    names = []
    for match in NAME.findall(text):
        words = match.split()
        while words and words[0].lower() in QUESTION_WORDS:
            words = words[1:]
        if len(name := " ".join(words)) > 2:
            names.append(name)
    return names


@dataclass(frozen=True)
class _Question:
    """An answerable question, and the rules that change it. Each returns None if it does not apply."""

    text: str
    context: str
    names: Sequence[str]
    """Names of the same subject."""
    generator: random.Random

    def with_another_name(self) -> str | None:
        """Change a name to one that the context lacks, of as many words if possible: people and places often differ in that."""
        names = [name for name in names_in(self.text) if name in self.context]
        drawn = self.generator.sample(self.names, min(NAMES_TRIED, len(self.names)))
        absent = [name for name in drawn if name not in self.context and name not in self.text]
        if not names or not absent:
            return None
        name = self.generator.choice(names)
        alike = [other for other in absent if len(other.split()) == len(name.split())]
        return self._replace(name, (alike or absent)[0])

    def with_another_number(self) -> str | None:
        """Change a number to one of about its size that the context lacks; a year to another year."""
        numbers = NUMBER.findall(self.text)
        if not numbers:
            return None
        number = self.generator.choice(numbers)
        value = float(number.replace(",", ""))
        if YEAR.fullmatch(number):
            other = str(int(value) + self.generator.choice((-1, 1)) * self.generator.randint(1, 30))
        elif "." in number:
            other = f"{value * self.generator.choice((0.5, 0.8, 1.5, 2)):.1f}"
        else:
            other = f"{round(value * self.generator.choice((0.5, 0.7, 1.5, 2))) + self.generator.randint(1, 2):,}"
        return None if other in self.context or other == number else self._replace(number, other)

    def with_an_opposite(self) -> str | None:
        """Change a word to its opposite."""
        words = [word for word in OPPOSABLE.findall(self.text) if word in _opposites()]
        if not words:
            return None
        word = self.generator.choice(words)
        return self._replace(word, self.generator.choice(_opposites()[word]))

    def negated(self) -> str | None:
        """Negate a verb."""
        verbs = [word for word in WORD.findall(self.text) if word.lower() in NEGATED]
        if not verbs:
            return None
        verb = self.generator.choice(verbs)
        negated = NEGATED[verb.lower()]
        return self._replace(verb, negated.capitalize() if verb[0].isupper() else negated)

    def _replace(self, old: str, new: str) -> str:
        """Replace the first occurrence of the word or words `old`."""
        return re.sub(rf"(?<!\w){re.escape(old)}(?!\w)", lambda _: new, self.text, count=1)


@cache
def _opposites() -> dict[str, list[str]]:
    opposites: dict[str, list[str]] = {}
    for pair in OPPOSITES.split(","):
        one, other = pair.split()
        opposites.setdefault(one, []).append(other)
        opposites.setdefault(other, []).append(one)
    return opposites
