"""Registering trained models in the BentoML model store, and finding them there."""

import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from bentoml import Model
from bentoml.exceptions import NotFound
from bentoml.models import BentoModel

TAGS = {"bigram": "trigen-bigram", "rnn": "trigen-rnn", "llm": "trigen-llm"}
"""The name under which the store keeps the versions of each model."""


@dataclass(frozen=True)
class Artifact:
    """A trained model that has not been registered yet."""

    directory: Path
    """Contains plain files only: safetensors, JSON, .npz without pickle, OpenVINO IR."""
    metadata: Mapping[str, Any]
    """Nested dicts of text, numbers and lists. Entries that are None are dropped, because BentoML rejects them."""


def register(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Register `artifacts`, given by model name, in the store and return their tags.

    Either all are registered or none: after a failure the store and each tag's `latest` are unchanged.
    """
    saved: list[str] = []
    try:
        for name, artifact in artifacts.items():
            with bentoml.models.create(TAGS[name], metadata=_without_none(dict(artifact.metadata))) as model:
                shutil.copytree(artifact.directory, model.path, dirs_exist_ok=True)
            saved.append(str(model.tag))
    except BaseException:
        for tag in saved:
            bentoml.models.delete(tag)
        raise
    return saved


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return value


def find(name: str) -> Model | None:
    """Return the newest version of the model `name` (`bigram`, `rnn` or `llm`) in the store, or None."""
    try:
        model: Model = bentoml.models.get(TAGS[name])
    except NotFound:
        return None
    return model


class TrigenModel(BentoModel):
    """The newest version of a model, declared as a class attribute of the service.

    BentoML packs it into the Bento and resolves it when the service starts. If it is missing, the service fails to start, with one line
    naming the command that trains it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{TAGS[name]}:latest")

    def resolve(self, *args: Any, **kwargs: Any) -> Model:
        """See `BentoModel`. Raises NotFound, naming the command that trains the model."""
        self._require_stored()
        model: Model = super().resolve(*args, **kwargs)
        return model

    def to_info(self, *args: Any, **kwargs: Any) -> Any:
        """See `BentoModel`. Raises NotFound, naming the command that trains the model."""
        self._require_stored()
        return super().to_info(*args, **kwargs)

    def _require_stored(self) -> None:
        if self.stored is None:
            raise NotFound(f"no {self.tag.name} in the model store: run `make serve` or `python train.py --preset quickstart` to train it")


def main() -> int:
    """Print which models are missing. Returns exit status 0 if none is; `make serve` relies on it."""
    missing = [tag for name, tag in TAGS.items() if find(name) is None]
    print(f"missing from the model store: {', '.join(missing)}" if missing else "the model store holds all three models")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
