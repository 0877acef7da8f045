"""The BentoML model store: which tags hold which model, putting them in, and finding them."""

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
"""Tags in the store, by model."""


@dataclass(frozen=True)
class Artifact:
    """A trained model before it is registered."""

    directory: Path
    """Plain files: safetensors, JSON, .npz without pickle, OpenVINO IR."""
    metadata: Mapping[str, Any]
    """Nested dicts of text, numbers and lists; entries that are None are left out, for BentoML refuses them."""


def register(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Put `artifacts`, by model name, into the store; returns their tags.

    All or none: after a failure the store and each tag's `latest` are as they were.
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
    """The newest model of a name in the store, or None."""
    try:
        model: Model = bentoml.models.get(TAGS[name])
    except NotFound:
        return None
    return model


class TrigenModel(BentoModel):
    """The newest model of a name, as an attribute of the service: what BentoML packs into the Bento and resolves when the
    service starts. Where it is missing, the start ends with one line that says which command makes it.
    """

    def __init__(self, name: str) -> None:
        super().__init__(f"{TAGS[name]}:latest")

    def resolve(self, *args: Any, **kwargs: Any) -> Model:
        """See `BentoModel`; raises NotFound with the command that makes the model."""
        self._demand()
        model: Model = super().resolve(*args, **kwargs)
        return model

    def to_info(self, *args: Any, **kwargs: Any) -> Any:
        """See `BentoModel`; raises NotFound with the command that makes the model."""
        self._demand()
        return super().to_info(*args, **kwargs)

    def _demand(self) -> None:
        if self.stored is None:
            raise NotFound(f"no {self.tag.name} in the model store: `make serve` or `python train.py --preset quickstart` makes it")


def main() -> int:
    """Say what the store holds: exit status 0 if all three models are there, else 1. `make serve` asks this."""
    missing = [tag for name, tag in TAGS.items() if find(name) is None]
    print(f"not in the model store: {', '.join(missing)}" if missing else "the model store holds all three models")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
