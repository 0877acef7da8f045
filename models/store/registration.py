"""Registering trained models in the BentoML model store."""

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.models import ModelStore

from models.store import TAGS
from models.store.checksums import KEY, checksums
from models.store.transaction import commit, staging


@dataclass(frozen=True)
class Artifact:
    """A trained model that has not been registered yet."""

    directory: Path
    """Contains plain files only: safetensors, JSON, .npz without pickle, OpenVINO IR."""
    metadata: Mapping[str, Any]
    """Nested dicts of text, numbers and lists. Entries that are None are dropped, because BentoML rejects them."""


def register(artifacts: Mapping[str, Artifact]) -> list[str]:
    """Register `artifacts`, given by model name, in the store and return their tags.

    The metadata of each gets the checksums of its files. Either all are registered or none: after a failure, or if the process is killed,
    the store and each tag's `latest` are unchanged. Raises OSError, for example if the disk is full.
    """
    try:
        with staging() as staged:
            tags = [_stage(name, artifact, staged) for name, artifact in artifacts.items()]
            commit(staged)
    except shutil.Error as error:  # its message lists all failures
        path, _, reason = error.args[0][0]
        raise OSError(f"{path} cannot be copied: {reason}") from error
    return tags


def _stage(name: str, artifact: Artifact, staged: Path) -> str:
    """Write a model with its files and their checksums into a directory laid out as the store. Returns its tag."""
    metadata = _without_none(dict(artifact.metadata)) | {KEY: checksums(artifact.directory)}
    with bentoml.models.create(TAGS[name], metadata=metadata, _model_store=ModelStore(staged)) as model:
        pass  # BentoML would copy the files twice
    target = staged / model.tag.name / model.tag.version
    # With the mode of new files: safetensors writes files that only their owner may read, and an image may run as another user.
    shutil.copytree(artifact.directory, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
    return str(model.tag)


def _without_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_without_none(item) for item in value if item is not None]
    return value
