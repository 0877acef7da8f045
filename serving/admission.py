"""Admission control: reject a request while too many texts are being generated, so that the admitted ones finish in time."""

from starlette.types import Scope

from serving.problems import REQUEST_SCOPE, Problem
from serving.settings import settings

_ADMITTED = "trigen.texts"
"""The key under which a request's scope holds its number of admitted texts."""


class Admission:
    """Counts the texts that this worker is generating."""

    def __init__(self) -> None:
        self.texts = 0

    def take(self, texts: int) -> None:
        """Count `texts` more texts for the current request, until `release`.

        Raises `Problem` (429) if they would exceed the limit. An idle worker admits any number, so that a request larger than the limit
        can succeed.
        """
        limit, scope = settings().max_texts, REQUEST_SCOPE.get()
        if self.texts and self.texts + texts > limit:
            raise Problem.busy(limit)
        self.texts += texts
        scope[_ADMITTED] = scope.get(_ADMITTED, 0) + texts

    def release(self, scope: Scope) -> None:
        """Stop counting the texts of a request that has ended."""
        self.texts -= scope.pop(_ADMITTED, 0)


ADMISSION = Admission()
