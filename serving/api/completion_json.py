"""The JSON of a completion, written in pieces: megabytes at once would hold up the event loop for a tenth of a second."""

import json
from typing import Any

from models.base import FinishReason
from serving.api.completion_schemas import ChunkChoice, Completion, Logprobs

_NO_CHOICES = '"choices":[]'


class ChoiceWriter:
    """Writes one `CompletionChoice`."""

    def __init__(self, index: int) -> None:
        self._index = index
        self._texts: list[str] = []
        self._logprobs: dict[str, list[str]] = {name: [] for name in Logprobs.model_fields}
        """The items of each list, in pieces."""
        self._has_logprobs = False
        self._finish_reason: FinishReason | None = None

    def add(self, piece: ChunkChoice) -> None:
        """Write the next piece of the text."""
        self._texts.append(piece.text)
        if piece.finish_reason in ("length", "stop"):
            self._finish_reason = piece.finish_reason
        if piece.logprobs:
            self._has_logprobs = True
            for name, parts in self._logprobs.items():
                parts.append(_dump(getattr(piece.logprobs, name))[1:-1])

    def __str__(self) -> str:
        lists = ",".join(f'"{name}":[{",".join(parts)}]' for name, parts in self._logprobs.items())
        logprobs = f"{{{lists}}}" if self._has_logprobs else "null"
        return (
            f'{{"index":{self._index},"text":{_dump("".join(self._texts))},"logprobs":{logprobs},'
            f'"finish_reason":{_dump(self._finish_reason)}}}'
        )


def write_completion(completion: Completion, choices: list[ChoiceWriter]) -> bytes:
    """Return the JSON of `completion`, which has no choices itself, with `choices`."""
    before, after = completion.model_dump_json().split(_NO_CHOICES)
    return "".join([before, '"choices":[', ",".join(map(str, choices)), "]", after]).encode()


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
