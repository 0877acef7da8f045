"""The files of the web page."""

import re
from pathlib import Path

from serving.api.page import DIRECTORY
from tests.client import get
from tests.conftest import Server, run


def test_files_have_a_content_hash_and_a_strict_policy(server: Server) -> None:
    for path in ("/ui", "/ui/main.js", "/ui/theme.css", "/ui/vendor/preact-htm.js"):
        response = get(server.url + path)
        assert response.headers["cache-control"] == "no-cache"
        policy = response.headers["content-security-policy"]
        assert "unsafe-inline" not in policy
        assert "default-src 'none'" in policy
        again = get(server.url + path, headers={"if-none-match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        plain = get(server.url + path, headers={"accept-encoding": "identity"})
        assert (response.headers["content-encoding"], "content-encoding" in plain.headers) == ("gzip", False)
        assert response.content == plain.content
    assert get(f"{server.url}/ui/main.js").headers["content-type"].startswith("text/javascript")
    assert [get(server.url + path).status_code for path in ("/ui/types.d.ts", "/ui/nothing.js", "/ui/../info.js")] == [404, 404, 404]
    assert get(server.url).headers["location"] == "ui"


def imported(module: Path) -> set[Path]:
    """The modules that `module` imports before it runs, and those that they import."""
    found: set[Path] = set()
    pending = [module]
    while pending:
        module = pending.pop()
        direct = {(module.parent / path).resolve() for path in re.findall(r'from "(\.[^"]+\.js)"', module.read_text())}
        pending += direct - found
        found |= direct
    return found


def test_the_modules_of_the_first_view_are_preloaded(server: Server) -> None:
    """Otherwise the browser learns of a module only when the one that imports it has arrived."""
    page = get(f"{server.url}/ui").text
    preloaded = set(re.findall(r'<link rel="modulepreload" href="ui/([^"]+)">', page))
    assert preloaded == {path.relative_to(DIRECTORY).as_posix() for path in imported(DIRECTORY / "main.js")}


PRINT_WITHOUT_PAGE = """
from service import Trigen
from starlette.testclient import TestClient
client = TestClient(Trigen.to_asgi(), follow_redirects=False)
print(client.get("/").headers["location"], *(client.get(path).status_code for path in ("/docs", "/ui", "/ui/main.js")))
"""


def test_without_the_page_the_root_leads_to_the_reference(tmp_path: Path) -> None:
    done = run(["-c", PRINT_WITHOUT_PAGE], tmp_path, TRIGEN_UI="false")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].split() == ["docs", "200", "404", "404"]
