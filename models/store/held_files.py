"""The files of the models that a service runs, kept open, so that nothing that happens to the store afterwards affects the service."""

import os
import shutil
import tempfile
import weakref
from pathlib import Path

from bentoml import Model

from models.store.checksums import verify


class HeldFiles:
    """Keeps files open until `close`. Some are read again or late: an engine's process that is replaced reads the whole model.

    On Linux a file that is open can be opened again, also by another process and after it was deleted, as /proc/PID/fd/N (proc_pid_fd(5)).
    """

    def __init__(self) -> None:
        self._descriptors: list[int] = []
        self._links = Path(tempfile.mkdtemp(prefix="trigen-models-"))
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


def _release(links: Path, descriptors: list[int]) -> None:
    shutil.rmtree(links, ignore_errors=True)
    for descriptor in descriptors:
        os.close(descriptor)
