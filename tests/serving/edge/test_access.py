"""Keys, and what needs one."""

import hashlib
import json
import logging
import os
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from bentoml.exceptions import BentoMLConfigException

from serving.edge.access import PROBES, warn_if_open
from serving.edge.keys import KeyRing, hash_keys
from serving.settings import Settings, settings
from tests.client import get
from tests.conftest import HANG_SECONDS, KEY, HeldServer, run
from tests.serving.edge.raw import request, send

SetSetting = Callable[[str, str], None]


PRINT_ROUTES = """
import json
from service import Trigen
routes = Trigen.to_asgi().routes
print(json.dumps([[route.path, sorted(getattr(route, "methods", None) or ["MOUNT"])] for route in routes]))
"""


def route_table(home: Path) -> list[tuple[str, str]]:
    """Return method and path of every route of the application, with a value for each parameter."""
    done = run(["-c", PRINT_ROUTES], home)
    assert done.returncode == 0, done.stderr
    found: list[tuple[str, str]] = []
    for path, methods in json.loads(done.stdout.splitlines()[-1]):
        if methods == ["MOUNT"]:
            found += [("GET", f"{path}/swagger-ui.css"), ("GET", f"{path}/nowhere")]
        elif path.endswith("/{file:path}"):
            found += [("GET", path.replace("{file:path}", file)) for file in ("main.js", "nowhere", "../info")]
        else:
            found += [(method, path.replace("{model}", "llm")) for method in methods]
    return found


PAGE = {"/": 307, "/ui": 200, "/ui/main.js": 200}
"""What the files of the web page answer without a key."""


def test_every_route_but_the_probes_and_the_page_needs_the_key(strict: HeldServer, tmp_path: Path) -> None:
    table = route_table(tmp_path)
    assert {path for _, path in table} >= {
        "/",
        "/docs",
        "/docs.json",
        "/schema.json",
        "/metrics",
        "/info",
        "/livez",
        "/v1/completions",
        "/ui/main.js",
    }
    for method, path in table:
        without, wrong = (
            httpx.request(method, f"{strict.url}{path}", headers=headers, timeout=HANG_SECONDS)
            for headers in ({}, {"authorization": "Bearer wrong"})
        )
        expected = 200 if path in PROBES else PAGE.get(path, 401)
        assert (method, path, without.status_code, wrong.status_code) == (method, path, expected, expected)
    for path in ("/docs", "/docs.json", "/schema.json", "/metrics", "/info", "/static_content/swagger-ui.css"):
        assert get(f"{strict.url}{path}", headers={"authorization": f"Bearer {KEY}"}).status_code == 200


@pytest.mark.parametrize(
    ("path", "host"),
    [
        (b"/info", b"x/livez?"),
        (b"/info", b"x/livez#"),
        (b"//livez", b"x"),
        (b"/livez/", b"x"),
        (b"/livez/../info", b"x"),
        (b"/%2flivez", b"x"),
        (b"/livez%00", b"x"),
        (b"/livez;/info", b"x"),
        (b"/static_content/../info", b"x"),
    ],
)
def test_neither_the_host_nor_a_similar_path_replaces_the_key(strict: HeldServer, path: bytes, host: bytes) -> None:
    sent = request("GET", path).replace(b"host: test", b"host: " + host)
    assert send(strict, sent).status == 401


def test_two_authorization_headers_are_no_key(strict: HeldServer) -> None:
    header = (b"authorization", f"Bearer {KEY}".encode())
    assert send(strict, request("GET", b"/info", b"", header)).status == 200
    assert send(strict, request("GET", b"/info", b"", header, header)).status == 401


def test_the_settings_hold_several_keys_as_hashes(set_setting: SetSetting) -> None:
    set_setting("TRIGEN_API_KEY", "first-secret, second-secret")
    assert settings().api_key == {hashlib.sha256(key).digest() for key in (b"first-secret", b"second-secret")}
    assert "secret" not in repr(settings())
    keys = KeyRing(settings().api_key)
    assert keys.is_required
    assert keys.accepts(b"first-secret")
    assert keys.accepts(b"second-secret")
    assert not keys.accepts(b"first-secret, second-secret")
    assert not keys.accepts(b"")


@pytest.mark.parametrize("value", ["", " , "])
def test_a_key_that_is_set_must_not_be_empty(set_setting: SetSetting, value: str) -> None:
    set_setting("TRIGEN_API_KEY", value)
    with pytest.raises(BentoMLConfigException, match=r"TRIGEN_API_KEY: .*set at least one key"):
        settings()


@pytest.mark.parametrize("content", [None, "", "# a comment\n\n"], ids=["missing", "empty", "comment"])
def test_a_key_file_without_a_key_stops_the_start(set_setting: SetSetting, tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "keys").write_text(content)
    set_setting("TRIGEN_API_KEY_FILE", str(tmp_path / "keys"))
    with pytest.raises(BentoMLConfigException, match="TRIGEN_API_KEY_FILE: "):
        settings()


def test_a_key_file_is_read_again_when_it_changes_and_kept_when_it_is_broken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "keys"
    file.write_text("# for the website\nold\n\n")
    keys = KeyRing(hash_keys("fixed"), file, check_seconds=0)
    assert [keys.accepts(key) for key in (b"old", b"fixed", b"# for the website", b"")] == [True, True, False, False]
    replace(file, "new\r\nother\n")
    assert [keys.accepts(key) for key in (b"old", b"new", b"other", b"fixed")] == [False, True, True, True]
    with caplog.at_level(logging.ERROR, "bentoml.trigen"):
        for content in ("", "# nothing"):
            replace(file, content)
            assert keys.accepts(b"new")
        file.unlink()
        assert keys.accepts(b"new")
        assert not keys.accepts(b"old")
    assert len(caplog.records) == 1
    replace(file, "newest")
    assert [keys.accepts(key) for key in (b"new", b"newest")] == [False, True]


def replace(file: Path, content: str) -> None:
    file.with_suffix(".new").write_text(content)
    os.replace(file.with_suffix(".new"), file)


def test_no_key_beyond_loopback_is_worth_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "bentoml.trigen"):
        for address in (None, "127.0.0.1", "::1"):
            warn_if_open(address, KeyRing(frozenset()))
        warn_if_open("0.0.0.0", KeyRing(hash_keys("key")))
        assert caplog.text == ""
        warn_if_open("0.0.0.0", KeyRing(frozenset()))
    assert "listens on 0.0.0.0 without a key" in caplog.text


def test_origins_are_separated_by_commas() -> None:
    assert Settings().cors_origins == ()
    assert Settings(cors_origins="https://a.example, https://b.example").cors_origins == ("https://a.example", "https://b.example")  # type: ignore[arg-type]


PRINT_STACK = """
import serving.app
from service import Trigen
from starlette.testclient import TestClient
built = []
serving.app.document = lambda: built.append("document") or {}
app = Trigen.to_asgi()
client = TestClient(app)
assert client.get("/docs.json").content == client.get("/docs.json").content == b"{}"
print(len(built), *(middleware.cls.__name__ for middleware in app.user_middleware))
"""


def test_the_document_is_built_once_and_bentomls_timeout_and_access_log_are_gone(tmp_path: Path) -> None:
    """BentoML's timeout keeps a timer, a future and the context of every request until the timeout is over."""
    done = run(["-c", PRINT_STACK], tmp_path)
    assert done.returncode == 0, done.stderr
    built, *middlewares = done.stdout.splitlines()[-1].split()
    assert built == "1"
    assert "TimeoutMiddleware" not in middlewares
    assert middlewares.count("AccessLogMiddleware") == 1
    assert "CORSMiddleware" not in middlewares
