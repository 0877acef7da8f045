"""The files of the models that a service runs, kept open, so that nothing that happens to the store afterwards affects the service."""

import fcntl
import os
import shutil
import tempfile
import time
import weakref
from contextlib import suppress
from pathlib import Path

from bentoml import Model

from models.store.checksums import verify

PREFIX = "trigen-models-"
"""The names of the directories of links begin with this."""
START_SECONDS = 60
"""A directory that is younger may not be locked yet by its process."""


class HeldFiles:
    """Keeps files open until `close`. Some are read again or late: an engine's process that is replaced reads the whole model.

    On Linux a file that is open can be opened again, also by another process and after it was deleted, as /proc/PID/fd/N (proc_pid_fd(5)).
    """

    def __init__(self) -> None:
        _remove_links_of_dead_processes()
        self._links = Path(tempfile.mkdtemp(prefix=PREFIX))
        self._descriptors = [os.open(self._links, os.O_RDONLY)]
        fcntl.flock(self._descriptors[0], fcntl.LOCK_SH)  # says that this process is alive
        self.close = weakref.finalize(self, _release, self._links, self._descriptors)
        """Closes the files and removes the links. Runs at exit at the latest."""

    def hold(self, model: Model) -> Path:
        """Check a model, open its files and return a directory of links to them. Without /proc, return the model's own directory.

        Raises `DamagedModel`: see `verify`.
        """
        verify(model)
        source, target = Path(model.path), self._links / model.tag.name
        process = Path(f"/proc/{os.getpid()}/fd")
        if not process.is_dir():
            return source
        for path in sorted(source.rglob("*")):
            link = target / path.relative_to(source)
            if path.is_dir():
                link.mkdir(parents=True, exist_ok=True)
                continue
            link.parent.mkdir(parents=True, exist_ok=True)
            self._descriptors.append(os.open(path, os.O_RDONLY))
            link.symlink_to(process / str(self._descriptors[-1]))
        return target


def _remove_links_of_dead_processes() -> None:
    """Remove the directories that killed processes have left behind, whose links lead nowhere."""
    for links in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        with suppress(OSError):
            lock = os.open(links, os.O_RDONLY)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # fails while its process is alive
                if time.time() - links.stat().st_mtime > START_SECONDS:
                    shutil.rmtree(links)
            finally:
                os.close(lock)


def _release(links: Path, descriptors: list[int]) -> None:
    shutil.rmtree(links, ignore_errors=True)
    for descriptor in descriptors:
        os.close(descriptor)
