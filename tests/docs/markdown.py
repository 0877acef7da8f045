"""Parse Markdown: code blocks, code spans, links and anchors, each with the line on which it begins."""

import re
from dataclasses import dataclass
from functools import cached_property

MARK = "<!-- test:"
FENCE = re.compile(
    r"^(?:<!-- test: skip (?P<skip>[\w-]+) -->\n\n?)?(?P<indent> *)```(?P<language>[\w-]*)\n(?P<text>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
SPAN = re.compile(r"(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)+?)(?<!`)\1(?!`)", re.DOTALL)  # within one paragraph
LINK = re.compile(r"\]\(([^)\s]+)[^)]*\)|^\[[^\]]+\]:\s+(\S+)|(?:src|href)=\"([^\"]+)\"", re.MULTILINE)
HEADING = re.compile(r"^#{1,6} +(.+?) *#*$", re.MULTILINE)


@dataclass(frozen=True)
class Passage:
    """A piece of a document."""

    document: str
    line: int
    text: str

    def fault(self, message: str) -> str:
        return f"{self.document}:{self.line}: {message}"


@dataclass(frozen=True)
class Block(Passage):
    """A fenced code block; `skip` is the reason in a `<!-- test: skip REASON -->` before it."""

    language: str
    skip: str | None

    @property
    def lines(self) -> list[Passage]:
        """The lines that are not empty, continuation lines joined."""
        joined = re.sub(r"(?:.*\\\n)+.*\n?", lambda match: match[0].replace("\\\n", " ") + "\n" * match[0].count("\\\n"), self.text)
        return [Passage(self.document, self.line + i, line) for i, line in enumerate(joined.splitlines()) if line.strip()]


@dataclass(frozen=True)
class Document:
    """A Markdown file: its path in the project, and its text."""

    path: str
    text: str

    @cached_property
    def blocks(self) -> list[Block]:
        return [
            Block(self.path, self._line(match.start("text")), match["text"], match["language"], match["skip"])
            for match in FENCE.finditer(self.text)
        ]

    @cached_property
    def spans(self) -> list[Passage]:
        """Code spans; a line break within one is a space."""
        return [Passage(self.path, self._line(match.start()), " ".join(match[2].split())) for match in SPAN.finditer(self._prose)]

    @cached_property
    def commands(self) -> list[Passage]:
        """The code spans and the lines of sh blocks."""
        return self.spans + [line for block in self.blocks if block.language == "sh" for line in block.lines]

    @cached_property
    def links(self) -> list[Passage]:
        prose = SPAN.sub(lambda match: re.sub(r"[^\n]", "x", match[0]), self._prose)
        return [
            Passage(self.path, self._line(match.start()), next(target for target in match.groups() if target))
            for match in LINK.finditer(prose)
        ]

    @cached_property
    def anchors(self) -> set[str]:
        """The anchors that GitHub gives the headings."""
        anchors: set[str] = set()
        for match in HEADING.finditer(self._prose):
            heading = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", match[1])  # a link is its text
            anchor = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
            repeated = [name for i in range(1, 10) if (name := f"{anchor}-{i}") not in anchors]
            anchors.add(repeated[0] if anchor in anchors else anchor)
        return anchors

    @cached_property
    def _prose(self) -> str:
        """The text with spaces in place of fenced blocks, so that positions stay the same."""
        return FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), self.text)

    def _line(self, position: int) -> int:
        return self.text.count("\n", 0, position) + 1
