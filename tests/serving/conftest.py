"""Settings of this process, for tests without a server."""

from collections.abc import Callable, Iterator

import pytest

from serving.settings import settings


@pytest.fixture
def set_setting(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str, str], None]]:
    """A function that sets one TRIGEN_ variable for the length of the test."""

    def change(name: str, value: str) -> None:
        monkeypatch.setenv(name, value)
        settings.cache_clear()

    yield change
    settings.cache_clear()
