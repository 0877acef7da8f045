"""Registers or pulls three models again and again into a store that holds three, each time with a fault at another file operation.

`python -m tests.models.store.interrupted_registration ACTION FAULT DIRECTORY` prints, as JSON, how often each outcome occurred. ACTION is
`register` or `pull`, FAULT is

- `kill`: the process is killed with SIGKILL before its n-th operation, for every n; where that leaves a journal, the recovery is killed
  before its m-th operation, for every m;
- `full`: from its n-th operation on, the process cannot create or write a file (ENOSPC), for every n;
- `kill-while-writing`, `full-while-writing`: the same in the middle of a file: no file may become longer than n bytes (RLIMIT_FSIZE).

The faults come from Python's audit hooks and from the kernel. Each attempt is a fork, because an audit hook cannot be removed.
"""

import errno
import json
import os
import resource
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import bentoml
from bentoml._internal.configuration.containers import BentoMLContainer
from bentoml._internal.models import ModelStore

from models.store import TAGS, find
from models.store.archives import pull, push
from models.store.checksums import verify
from models.store.registration import Artifact, register
from models.store.transaction import recover

NEEDS_ROOM = {"open", "os.mkdir"}
CHANGES = NEEDS_ROOM | {"os.rename", "os.remove", "os.rmdir", "os.chmod", "os.utime", "os.truncate"}
SIZES = (0, 1, 10, 100, 1000, 3000)
"""Limits of a file's length in bytes. The longest file is longer than the last."""


class Attempts:
    """A store with three models, and attempts to replace them."""

    def __init__(self, action: str, directory: Path) -> None:
        self.home, self.backup = directory / "home", directory / "backup"
        (self.home / "models").mkdir(parents=True)
        BentoMLContainer.model_store.set(ModelStore(self.home / "models"))
        self.artifacts = {name: self._artifact(directory / name) for name in TAGS}
        self.old = register(self.artifacts)
        shutil.copytree(self.home, self.backup)
        archives = str(directory / "archives")
        self.action = (lambda: pull(archives)) if action == "pull" else lambda: register(self.artifacts)
        if action == "pull":
            register(self.artifacts)  # those to pull
            forked(lambda: push(archives), lambda: None)  # obstore has threads, so no process that forks may use it

    def _artifact(self, directory: Path) -> Artifact:
        (directory / "openvino").mkdir(parents=True)
        (directory / "openvino/model.bin").write_bytes(os.urandom(5000))
        return Artifact(directory, {"seed": 1})

    def reset(self, source: Path | None = None) -> None:
        shutil.rmtree(self.home)
        shutil.copytree(source or self.backup, self.home)

    def check(self) -> str:
        """Check the store as it is, and after it has been used again. Returns which models it holds: `old` or `new`."""
        listed = bentoml.models.list()
        for model in listed:
            verify(model)
        assert set(self.old) <= {str(model.tag) for model in listed}
        for tag in TAGS.values():
            verify(bentoml.models.get(tag))
        newest = [str(found.tag) for found in map(find, TAGS) if found]
        tags = {str(model.tag) for model in bentoml.models.list()}
        if newest == self.old:
            assert tags == set(self.old), tags
            return "old"
        assert len(newest) == 3
        assert not set(newest) & set(self.old), newest
        assert tags == {*self.old, *newest}
        return "new"

    def check_that_it_can_register(self) -> None:
        newest = register(self.artifacts)
        assert [str(found.tag) for found in map(find, TAGS) if found] == newest
        assert sorted(path.name for path in (self.home / ".models-registration").iterdir()) == ["lock"]


def forked(action: Callable[[], object], prepare: Callable[[], None]) -> str:
    """Run `action` after `prepare` in a fork. Returns `done`, `killed`, or `failed` if it raised OSError."""
    pid = os.fork()
    if not pid:
        status = 3
        try:
            prepare()
            action()
            status = 0
        except OSError:
            status = 1
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        return "killed"
    return {0: "done", 1: "failed"}[os.WEXITSTATUS(status)]


def fault_at(home: Path, operation: int, events: set[str], fault: Callable[[], None]) -> Callable[[], None]:
    """Return what calls `fault` at every operation below `home`, from the given one on, whose audit event is one of `events`."""

    def prepare() -> None:
        count = 0

        def hook(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal count
            if event not in events or not str(arguments[0]).startswith(str(home)):
                return
            if event == "open":
                path, _, flags = arguments
                if not flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) or Path(str(path)).name == "lock":  # exists, and stays empty
                    return
            count += 1
            if count > operation:
                fault()

        sys.addaudithook(hook)

    return prepare


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def disk_full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def limit_size(size: int, killed: bool) -> Callable[[], None]:
    """Return what limits the length of files. The kernel's signal kills the process, or is ignored, and then the write fails."""

    def prepare() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_DFL if killed else signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return prepare


def run(action: str, fault: str, directory: Path) -> Counter[str]:
    outcomes: Counter[str] = Counter()
    attempts = Attempts(action, directory)

    def attempt(prepare: Callable[[], None]) -> str:
        attempts.reset()
        outcome = forked(attempts.action, prepare)
        interrupted = directory / "interrupted"
        shutil.rmtree(interrupted, ignore_errors=True)
        shutil.copytree(attempts.home, interrupted)
        held = attempts.check()
        assert held == "old" or outcome != "failed"
        outcomes[f"{outcome}: {held}"] += 1
        attempts.check_that_it_can_register()
        if fault == "kill" and (interrupted / ".models-registration/journal.json").exists():
            for operation in range(1000):
                attempts.reset(interrupted)
                recovered = forked(recover, fault_at(attempts.home, operation, CHANGES, kill))
                assert attempts.check() == "old"
                outcomes[f"recovery {recovered}"] += 1
                if recovered == "done":
                    attempts.check_that_it_can_register()
                    break
        return outcome

    if fault.endswith("while-writing"):
        for size in SIZES:
            assert attempt(limit_size(size, fault.startswith("kill"))) != "done"
    else:
        for operation in range(1000):
            kind = (CHANGES, kill) if fault == "kill" else (NEEDS_ROOM, disk_full)
            if attempt(fault_at(attempts.home, operation, *kind)) == "done":
                break
    return outcomes


if __name__ == "__main__":
    os.fsync = lambda fd: None  # only a power failure would show whether it is called, and it takes most of the time
    print(json.dumps(run(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))  # noqa: T201
