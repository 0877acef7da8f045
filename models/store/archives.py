"""Models in a bucket or a directory, in BentoML's own archives: `push` copies them there, `pull` from there into the store.

An archive is called NAME/TIME-VERSION.tar, after its model's tag and creation time. So the names alone tell which versions there are and
which is the newest, also after the archives were copied elsewhere. They are not compressed: docs/operating.md says what xz costs.

obstore writes an archive whole or not at all, also in a directory, and reads the usual variables: AWS_ENDPOINT_URL, AWS_ACCESS_KEY_ID, …
"""

import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, timedelta
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import bentoml
from bentoml import Model, Tag
from bentoml._internal.models import ModelStore
from bentoml.exceptions import BentoMLException

from models.store import LATEST, TAGS, find, require, versions
from models.store.checksums import DamagedModel, verify
from models.store.transaction import commit, downloads, staging

if TYPE_CHECKING:
    from obstore.store import ObjectStore, RetryConfig

SUFFIX = ".tar"
PUSH_AGAIN = "Delete it there, and push it again"
RETRIES, RETRY_SECONDS = 5, 60
"""How often, and for how long, a request is repeated that failed because of the network or the server."""
ADVICE = {
    "NoSuchBucket": "there is no such bucket: create it, or correct the URL",
    "Unable to recognise URL": "this is no place for models: write s3://BUCKET/PREFIX or the path of a directory",
    "No such file or directory": "there is no such directory: correct the path",
    "169.254.169.254|Missing(SecretA|A)ccessKey": "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "401 Unauthorized|403 Forbidden": "access is denied: check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, and what they allow",
    "error sending request|timed out": "the server cannot be reached: check the network and AWS_ENDPOINT_URL, or name versions that the"
    " store holds already, as in trigen-llm:VERSION, which needs no network",
}
"""What to do about an error of obstore whose text matches a pattern; the first counts."""


class TransferError(BentoMLException):
    """Models cannot be pushed or pulled. The message is one line and says what to do."""


def push(url: str, tags: Sequence[str] = ()) -> dict[str, bool]:
    """Copy models from the store to the bucket or directory `url`: `tags`, or the newest version of every model.

    Returns the full tags, each with whether it was copied: a version that is there already is not. Raises `TransferError`, `DamagedModel`,
    or NotFound if the store lacks a version.
    """
    models = [require(tag.name, tag.version or LATEST) for tag in _requested(tags)]
    copied = {}
    with _errors(url):
        target = _open(url, create=True)
        for model in models:
            copied[str(model.tag)] = model.tag.version not in _versions(target, model.tag.name)
            if copied[str(model.tag)]:
                verify(model)
                _upload(model, target)
    return copied


def pull(url: str, tags: Sequence[str] = ()) -> dict[str, bool]:
    """Copy models from the bucket or directory `url` into the store: `tags`, or the newest version of every model there.

    All are copied or none, also if the process is killed; `latest` stays the newest by creation time. Returns the full tags, each with
    whether it was copied. What the store holds is not fetched; where it holds all of the requested versions, nothing is read from `url`.
    Raises `TransferError`, `DamagedModel`, or OSError if the disk is full.
    """
    requested = _requested(tags)
    if all(_is_stored(tag) for tag in requested):
        return {str(tag): False for tag in requested}
    with _errors(url):
        source = _open(url)
        archives = dict(_find_archive(source, tag, url) for tag in requested)
    if all(map(_is_stored, archives)):
        return {str(tag): False for tag in archives}
    with staging() as staged:  # another process may have registered some of them while this one waited
        missing = {tag: name for tag, name in archives.items() if not _is_stored(tag)}
        for tag, name in missing.items():
            archive = downloads(staged) / PurePosixPath(name).name
            with _errors(url):
                _download(source, name, archive)
            _import(archive, tag, staged, f"{url.rstrip('/')}/{name}")
            archive.unlink()
        _keep_latest(staged)
        commit(staged)
    return {str(tag): tag in missing for tag in archives}


def _requested(tags: Sequence[str]) -> list[Tag]:
    """Return the tags of what was requested. Raises `TransferError` for an unknown model."""
    requested = [Tag.from_taglike(tag) for tag in tags or TAGS.values()]
    for tag in requested:
        if tag.name not in TAGS.values():
            raise TransferError(f"{tag} is none of the models {', '.join(TAGS.values())}: write NAME or NAME:VERSION")
    return requested


def _is_stored(tag: Tag) -> bool:
    return tag.version in versions(tag.name)


@contextmanager
def _errors(url: str) -> Iterator[None]:
    """Raise the errors of obstore, whose texts have many lines, as `TransferError`."""
    from obstore.exceptions import BaseError

    try:
        yield
    except (BaseError, FileNotFoundError) as error:
        text = f"{type(error).__name__}: {error}"
        advice = next((advice for pattern, advice in ADVICE.items() if re.search(pattern, text)), text.splitlines()[0])
        raise TransferError(f"{url}: {advice}") from error


def _open(url: str, *, create: bool = False) -> "ObjectStore":
    """Return the bucket or directory at `url`. Raises errors of obstore."""
    from obstore.store import LocalStore, from_url  # here, because the service and the training do without

    path = url.removeprefix("file://")
    if path.partition(":")[0] in TAGS.values():
        raise TransferError(f"{url}: this is a model: write the bucket or the directory before it")
    if "://" not in path:
        return LocalStore(Path(path).absolute(), mkdir=create)
    plain = os.environ.get("AWS_ENDPOINT_URL", "").startswith("http://")
    retry: RetryConfig = {"max_retries": RETRIES, "retry_timeout": timedelta(seconds=RETRY_SECONDS)}
    return from_url(url, client_options={"allow_http": plain}, retry_config=retry)


def _versions(store: "ObjectStore", name: str) -> dict[str, str]:
    """Return the archives of a model by their versions, the newest last."""
    objects = (PurePosixPath(entry["path"]) for entry in store.list_with_delimiter(name)["objects"])
    return {path.stem.partition("-")[2]: str(path) for path in sorted(objects) if path.suffix == SUFFIX and "-" in path.stem}


def _find_archive(store: "ObjectStore", tag: Tag, url: str) -> tuple[Tag, str]:
    """Return the full tag and the name of the archive that was requested as `tag`. Raises `TransferError` if there is none."""
    found = _versions(store, tag.name)
    version = next(reversed(found), None) if tag.version in (None, LATEST) else tag.version
    if version is None or version not in found:
        held = f"it holds {', '.join(found)}" if found else "it holds no version of it"
        raise TransferError(f"{url}: there is no {tag} ({held}): push it there with `python -m models.store push`")
    return Tag(tag.name, version), found[version]


def _upload(model: Model, target: "ObjectStore") -> None:
    created = model.creation_time.astimezone(UTC)
    with tempfile.TemporaryDirectory() as directory:
        archive = bentoml.models.export_model(model.tag, f"{directory}/{model.tag.version}{SUFFIX}", "tar")
        target.put(f"{model.tag.name}/{created:%Y%m%dT%H%M%S.%f}-{model.tag.version}{SUFFIX}", Path(archive))


def _download(source: "ObjectStore", name: str, path: Path) -> None:
    with path.open("wb") as file:
        for chunk in source.get(name).stream():
            file.write(chunk)


def _import(archive: Path, tag: Tag, staged: Path, place: str) -> None:
    """Import an archive into the staged models and check its files. Raises `DamagedModel`, or OSError if the disk is full."""
    try:
        with _temporary_files_in(archive.parent):
            model = bentoml.models.import_model(str(archive), _model_store=ModelStore(staged))
    except OSError:
        raise
    except Exception as error:  # of many types: tarfile's, the YAML parser's, BentoML's own
        raise DamagedModel(f"{tag} in {place} is damaged: {(str(error) or repr(error)).splitlines()[0]}. {PUSH_AGAIN}") from error
    if model.tag != tag:
        raise DamagedModel(f"{tag} in {place} is damaged: it holds {model.tag}. {PUSH_AGAIN}")
    Path(model.path).chmod(staged.stat().st_mode)  # BentoML's is that of a temporary directory, and the service may run as another user
    verify(model, place, PUSH_AGAIN)


@contextmanager
def _temporary_files_in(directory: Path) -> Iterator[None]:
    """Let BentoML unpack in the file system of the store: /tmp may be small, and a killed process leaves nothing there."""
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield
    finally:
        tempfile.tempdir = before


def _keep_latest(staged: Path) -> None:
    """Let `latest` remain the newest version by creation time, as BentoML does, where that is in the store."""
    for name, tag_name in TAGS.items():
        if (staged / tag_name).exists() and (stored := find(name)):
            pulled = ModelStore(staged).get(tag_name)
            if stored.creation_time > pulled.creation_time:
                (staged / tag_name / LATEST).write_text(stored.tag.version or "")
