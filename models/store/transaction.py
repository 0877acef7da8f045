"""Adding several models to the store at once: all or none, also when the process is killed or the disk is full.

The models are written to a directory beside the store, on the same file system, so that each moves into the store by a rename. A journal in
that directory says which models are about to move and what each tag's `latest` was. As long as it is there, the transaction is not
committed: whoever opens the store next undoes what was renamed. Removing the journal commits.

BentoML's own `bentoml.models.create` copies into the store and overwrites `latest`: an interruption leaves a model without its files, or an
empty `latest`. The directory lies outside the store because BentoML takes every directory in the store for a model.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from bentoml._internal.configuration.containers import BentoMLContainer

JOURNAL = "journal.json"
STAGED = "store"
"""The staged models, laid out as in the store: NAME/VERSION/ and NAME/latest."""
DOWNLOADS = "downloads"
"""Files on their way to the staged models."""


@dataclass(frozen=True)
class Move:
    """A version of a model that moves into the store, and the version that was the newest before it, if there was one."""

    name: str
    version: str
    previous: str | None


def store_directory() -> Path:
    """Return the directory of BentoML's model store."""
    return Path(BentoMLContainer.model_store.get()._path)


def recover() -> None:
    """Undo a registration that was interrupted while it moved models into the store. Does nothing, and writes nothing, otherwise."""
    if (_root() / JOURNAL).exists():
        with _locked():
            _clean()


def downloads(staged: Path) -> Path:
    """Return the directory for files on their way to the models in `staged`. It is removed with them."""
    directory = staged.parent / DOWNLOADS
    directory.mkdir(exist_ok=True)
    return directory


@contextmanager
def staging() -> Iterator[Path]:
    """Yield a directory for models to add to the store, laid out as the store, and remove it afterwards.

    Only one process at a time registers; another one waits. What a killed process left behind is removed first.
    """
    with _locked() as root:
        _clean()
        staged = root / STAGED
        staged.mkdir()
        _sync(root.parent)
        try:
            yield staged
        finally:
            _clean()


def commit(staged: Path) -> None:
    """Move all models of a staging directory into the store, and for each name the `latest` that is staged.

    Raises OSError if they cannot be moved. The end of `staging` then undoes what was.
    """
    store, root = store_directory(), staged.parent
    _sync_tree(staged)
    moves = []
    for directory in sorted(staged.iterdir()):
        latest = store / directory.name / "latest"
        previous = latest.read_text().strip() or None if latest.exists() else None
        moves += [Move(directory.name, path.name, previous) for path in sorted(directory.iterdir()) if path.is_dir()]
        if previous:
            _write(directory / "previous", previous)  # now, because an undo must not need room on the disk
    for move in moves:
        (store / move.name).mkdir(exist_ok=True)
    _write(root / JOURNAL, json.dumps([asdict(move) for move in moves]))
    try:
        for move in moves:
            (staged / move.name / move.version).rename(store / move.name / move.version)
        for name in sorted({move.name for move in moves}):
            (staged / name / "latest").rename(store / name / "latest")
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        raise OSError(errno.EXDEV, f"{store} is a mount point of its own: mount its parent, BENTOML_HOME, instead") from error
    _sync(store, *(store / move.name for move in moves))
    (root / JOURNAL).unlink()
    _sync(root)


def _root() -> Path:
    """Return the directory for staging, beside the store and so on its file system."""
    store = store_directory()
    return store.with_name(f".{store.name}-registration")


@contextmanager
def _locked() -> Iterator[Path]:
    """Hold the lock of all registrations. The kernel releases it when the process ends, however it ends."""
    root = _root()
    root.mkdir(parents=True, exist_ok=True)
    with (root / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield root


def _clean() -> None:
    """Undo what the journal lists, if there is one, and remove staged models. An interrupted undo continues when it runs again."""
    root, store = _root(), store_directory()
    staged, journal = root / STAGED, root / JOURNAL
    if journal.exists():
        moves = [Move(**move) for move in json.loads(journal.read_text())]
        for move in moves:
            _undo(move, staged / move.name, store / move.name)
        _sync(store)
        journal.unlink()
        _sync(root)
    for directory in (staged, root / DOWNLOADS):
        with suppress(FileNotFoundError):
            shutil.rmtree(directory)


def _undo(move: Move, staged: Path, stored: Path) -> None:
    latest, version = stored / "latest", stored / move.version
    if latest.exists() and latest.read_text() == move.version:
        if move.previous is None:
            latest.unlink()
        else:
            (staged / "previous").rename(latest)
    if version.exists():
        version.rename(staged / move.version)  # out of the store in one step: a half-deleted model must not be listed
    if stored.exists():
        _sync(stored)
        if move.previous is None:
            with suppress(OSError):  # not empty
                stored.rmdir()


def _write(path: Path, text: str) -> None:
    """Write a small file that is either whole or absent, also after a power failure."""
    new = path.with_name(f"{path.name}.new")
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    _sync(path.parent)


def _sync_tree(directory: Path) -> None:
    for parent, _, files in os.walk(directory):
        _sync(*(Path(parent, name) for name in files), Path(parent))


def _sync(*paths: Path) -> None:
    """Make files, or the entries of directories, durable."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
