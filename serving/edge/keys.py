"""API keys. Only their SHA-256 hashes stay in memory."""

import hashlib
import hmac
import logging
import time
from pathlib import Path

logger = logging.getLogger("bentoml.trigen")

Hashes = frozenset[bytes]
CHECK_SECONDS = 1.0
"""How often a key file is checked for changes."""


def hash_keys(keys: str) -> Hashes:
    """Return the hashes of keys that are separated by commas. Raises ValueError if there is none."""
    hashes = frozenset(_hash(key.strip().encode()) for key in keys.split(",") if key.strip())
    if not hashes:
        raise ValueError("set at least one key, or unset the variable")
    return hashes


def read_key_file(path: Path) -> Hashes:
    """Return the hashes of the keys in a file: one a line; blank lines and lines that begin with `#` are skipped.

    Raises OSError, or ValueError if the file has no key.
    """
    lines = (line.strip() for line in path.read_bytes().splitlines())
    hashes = frozenset(_hash(line) for line in lines if line and not line.startswith(b"#"))
    if not hashes:
        raise ValueError(f"{path} has no key: write one key a line")
    return hashes


class KeyRing:
    """The keys of the settings and of a file, which is read again when it changes. Without any key, the service is open."""

    def __init__(self, hashes: Hashes, file: Path | None = None, check_seconds: float = CHECK_SECONDS) -> None:
        self._hashes, self._file, self._check_seconds = hashes, file, check_seconds
        self._file_hashes: Hashes = frozenset()
        self._version: tuple[int, ...] | None = None
        self._next_check = 0.0
        self._failed = False
        if file:
            self._version, self._file_hashes = _version(file), read_key_file(file)

    @property
    def is_required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._hashes or self._file)

    def accepts(self, key: bytes) -> bool:
        """Whether `key` is one of the keys, in a time that does not depend on how similar it is to one of them."""
        self._refresh()
        digest = _hash(key)
        matches = [hmac.compare_digest(digest, known) for known in self._hashes | self._file_hashes]
        return any(matches)

    def _refresh(self) -> None:
        """Read the file again if it has changed. If it cannot be read or has no key, keep the keys and log one error."""
        if not self._file or time.monotonic() < self._next_check:
            return
        self._next_check = time.monotonic() + self._check_seconds
        try:
            version = _version(self._file)
            if version == self._version and not self._failed:
                return
            self._file_hashes, self._version = read_key_file(self._file), version
        except (OSError, ValueError) as error:
            if not self._failed:
                logger.error("TRIGEN_API_KEY_FILE: the previous keys stay valid: %s", error)
            self._failed = True
        else:
            self._failed = False
            logger.info("TRIGEN_API_KEY_FILE: read %d keys", len(self._file_hashes))


def _hash(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def _version(file: Path) -> tuple[int, ...]:
    status = file.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino
