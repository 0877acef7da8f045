"""Made-up bodies, headers and paths against the real server: no 5xx, no hang, no traceback, no long answer."""

import json
import re
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Server
from tests.serving.edge.raw import RawResponse, request, send

MAX_ERROR_BYTES = 8_000
LOG_LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d")
EXAMPLES = [100, pytest.param(2_500, marks=pytest.mark.slow)]
ROUTES = ["/generate_text", "/generate_with_rnn", "/generate_with_llm", "/answer_question", "/v1/completions"]
FIELDS = ["start_word", "length", "temperature", "top_k", "top_p", "seed", "stop", "context", "question", "model", "prompt", "n", "echo"]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.sampled_from(["The", "llm", "bigram", "?"]),
    lambda children: st.lists(children, max_size=4) | st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=9), children, max_size=4),
    max_leaves=8,
)
objects = st.dictionaries(st.sampled_from(FIELDS), values, max_size=6) | st.fixed_dictionaries(
    {"start_word": st.text(max_size=20), "length": st.integers(-1, 4)}, optional={"seed": values, "stop": values, "stream": st.booleans()}
)
bodies = st.binary(max_size=200) | (values | objects).map(lambda value: json.dumps(value).encode())
media_types = st.sampled_from(
    [b"application/json", b"application/json; charset=utf-8", b"multipart/form-data; boundary=x"]
) | st.sampled_from(
    [b"application/vnd.bentoml+pickle", b"APPLICATION/JSON", b"", b";", b"text/plain", b"application/json;charset=utf-16", b"\xff/\x80"]
)
tokens = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode) | st.sampled_from(
    [b"host", b"origin", b"authorization", b"x-request-timeout", b"traceparent", b"tracestate", b"baggage", b"accept", b"cookie", b"range"]
)
names = tokens.filter(lambda name: name not in (b"content-length", b"transfer-encoding", b"expect"))
raw = st.binary(max_size=60) | st.text(max_size=30).map(str.encode)
contents = raw.map(lambda value: bytes(byte for byte in value if byte >= 0x20 and byte != 0x7F)) | st.sampled_from(
    [b"\xc2\x9b31m\xc2\x85,=;;", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", b"bytes=0-1", b"bytes=9-1,-", b"x/livez?"]
)
paths = st.binary(max_size=80).map(lambda path: b"/" + re.sub(rb"[\x00-\x20\x7f]", b"%0A", path)) | st.lists(
    st.sampled_from([b"/", b"..", b"%00", b"%0d%0a", b"%1b[31m", b"%ff", b"%ed%a0%80", b"static_content", b"v1", b"models", b"llm", b"?"]),
    max_size=9,
).map(lambda parts: b"/" + b"".join(parts))


def check(response: RawResponse) -> None:
    assert response.status < 500, response.content
    if response.status >= 400:
        assert len(response.content) < MAX_ERROR_BYTES
        body = json.loads(response.body) if response.body else {"request_id": ""}  # HEAD
        assert "request_id" in body.get("error", body)
        assert b"Traceback" not in response.content


def fuzz(examples: int, test: Callable[..., None], **strategies: st.SearchStrategy[object]) -> None:
    settings(max_examples=examples, suppress_health_check=list(HealthCheck))(given(**strategies)(test))()


@pytest.fixture(autouse=True)
def sane_afterwards(server: Server) -> object:
    """Check the log after each test: nothing but whole lines, and no traceback."""
    yield
    log = server.log.read_text()
    assert "Traceback" not in log
    assert [line for line in log.splitlines() if not LOG_LINE.match(line)] == []
    assert all(character.isprintable() or character == "\n" for character in log)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_bodies(server: Server, examples: int) -> None:
    def test(route: str, body: bytes, media_type: bytes) -> None:
        check(send(server, request("POST", route.encode(), body, (b"content-type", media_type))))

    fuzz(examples, test, route=st.sampled_from(ROUTES), body=bodies, media_type=media_types | st.just(b"application/json"))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_headers(server: Server, examples: int) -> None:
    def test(headers: list[tuple[bytes, bytes]]) -> None:
        body = b'{"start_word": "The", "length": 1}'
        check(send(server, request("POST", b"/generate_text", body, (b"content-type", b"application/json"), *headers)))

    fuzz(examples, test, headers=st.lists(st.tuples(names, contents), max_size=6))


@pytest.mark.parametrize("examples", EXAMPLES)
def test_paths_and_methods(server: Server, examples: int) -> None:
    def test(method: str, path: bytes) -> None:
        check(send(server, request(method, path)))

    methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "CONNECT", "PROPFIND", "NONSENSE"])
    fuzz(examples, test, method=methods, path=paths)


@pytest.mark.parametrize("examples", EXAMPLES)
def test_bytes(server: Server, examples: int) -> None:
    def test(prefix: bytes, noise: bytes) -> None:
        response = send(server, prefix + noise, end=True)
        if response.content.startswith(b"HTTP/1.1 "):
            assert response.status < 500

    prefixes = [
        b"",
        b"GET ",
        b"GET / HTTP/1.1\r\n",
        b"POST /generate_text HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
    ]
    fuzz(examples, test, prefix=st.sampled_from(prefixes), noise=st.binary(max_size=300))
