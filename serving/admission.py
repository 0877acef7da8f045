"""How many texts may be under way at once: a service that takes in more than it can answer answers nobody in time."""

from starlette.types import Scope

from serving.problems import REQUEST, Problem
from serving.settings import settings

_TEXTS = "trigen.texts"


class Admission:
    """Counts the texts under way, of one worker."""

    def __init__(self) -> None:
        self.texts = 0

    def take(self, texts: int) -> None:
        """Count the `texts` that `REQUEST` asks for, until `release`. Raises `Problem`, 429, where with them there would be too many; a
        request that by itself asks for more is taken when nothing else is under way.
        """
        limit, scope = settings().max_texts, REQUEST.get()
        if self.texts and self.texts + texts > limit:
            raise Problem.busy(limit)
        self.texts += texts
        scope[_TEXTS] = scope.get(_TEXTS, 0) + texts

    def release(self, scope: Scope) -> None:
        """The request is answered, or given up."""
        self.texts -= scope.pop(_TEXTS, 0)


ADMISSION = Admission()
