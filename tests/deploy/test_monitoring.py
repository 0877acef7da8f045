"""A real Prometheus scrapes the real service: every panel and every rule has data, and the alerts fire when the service breaks."""

import math
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx
import psutil
import pytest

from benchmarks.serving.process import free_port
from tests.client import CONTEXT, GENERATE_BODY, MODELS, complete, post, stream_events
from tests.conftest import HANG_SECONDS, HeldServer, Trained, serve_held, wait_until
from tests.deploy.conftest import DEPLOY, Prometheus, find_program, prometheus, rules, run_program
from tests.deploy.test_files import panels
from tests.faults.conftest import LLM, only

pytestmark = pytest.mark.slow

QUERIES = {f"{panel['title']} {target['refId']}": target["expr"] for panel in panels() for target in panel["targets"]}
EXPRESSIONS = {rule.get("record") or rule["alert"]: rule["expr"] for rule in rules()}
BODY = {"model": "llm", "prompt": "The light", "max_tokens": 2}
SLOW_SECONDS = 3
"""A first token that comes after this time makes TrigenFirstTokenSlow fire."""


@dataclass(frozen=True)
class Watched:
    """A service that generates one text of the LLM and lets one wait, and the Prometheus that scrapes it."""

    server: HeldServer
    prometheus: Prometheus

    def wait_for_alerts(self, *names: str) -> None:
        wait_until(lambda: set(names) <= set(self.prometheus.firing()), f"{names} fire")

    def wait_for_scrapes(self) -> None:
        """Wait until Prometheus has scraped everything up to now, and evaluated the rules after that."""
        now = time.time()
        wait_until(lambda: self.prometheus.query("timestamp(up) and up == 1") > [now + 3], "Prometheus has scraped the service")


@pytest.fixture(scope="module")
def watched(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """It has answered a few requests of each kind."""
    find_program("prometheus", "install Debian's package prometheus")
    port = free_port()
    settings = {"TRIGEN_METRICS_PORT": str(port), "TRIGEN_MAX_TEXTS": "1", "TRIGEN_MAX_WAITING": "1"}
    with (
        serve_held(trained, tmp_path_factory.mktemp("watched"), **settings) as server,
        prometheus(f"127.0.0.1:{port}", tmp_path_factory.mktemp("prometheus")) as scraper,
    ):
        both = Watched(server, scraper)
        for _ in range(2):  # a rate needs two values of a series, and that of a route begins with its first request
            both.wait_for_scrapes()
            _send_requests(server)
        both.wait_for_scrapes()
        yield both


def _send_requests(server: HeldServer) -> None:
    for model in MODELS:
        complete(server, model, max_tokens=8)
        stream_events(server, "/v1/completions", {"model": model, "prompt": "The light", "max_tokens": 8, "stop": ["no such text"]})
    for route in ("/generate_text", "/generate_with_rnn", "/generate_with_llm"):
        assert post(server, route, GENERATE_BODY).status_code == 200
    for question in ("Who built it?", "Where does it stand?"):
        assert post(server, "/answer_question", {"question": question, "context": CONTEXT}).status_code == 200


def test_promtool_accepts_the_files_and_the_rules_pass_their_tests() -> None:
    promtool = find_program("promtool", "install Debian's package prometheus")
    for command in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        *words, file = command
        done = run_program(promtool, *words, str(DEPLOY / "prometheus" / file))
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("name", QUERIES)
def test_every_query_of_the_dashboard_has_data(watched: Watched, name: str) -> None:
    expression = QUERIES[name].replace("$__rate_interval", "10m")
    assert "$" not in expression
    values = watched.prometheus.query(expression)
    assert [value for value in values if math.isfinite(value)], f"{values} from {expression}"


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_rule_has_data(watched: Watched, name: str) -> None:
    """An alert's expression has no value while all is well, so its comparisons return 0 or 1 here instead of selecting."""
    expression = re.sub(r" (==|>) ", r" \1 bool ", EXPRESSIONS[name])
    assert ("bool" in expression) == (name.startswith("Trigen"))
    values = watched.prometheus.query(expression)
    assert [value for value in values if math.isfinite(value)], f"{values} from {expression}"


def test_no_alert_fires_while_all_is_well(watched: Watched) -> None:
    assert watched.prometheus.firing() == {}


# From here on the tests break the service, one after another.


def test_alerts_fire_when_more_requests_arrive_than_are_answered(watched: Watched) -> None:
    server = watched.server
    with ThreadPoolExecutor() as pool:
        with server.texts_held(after=0):
            running = pool.submit(stream_events, server, "/v1/completions", BODY)
            server.wait_for("started", 1)
            waiting = pool.submit(stream_events, server, "/v1/completions", BODY)
            watched_queue = 'vllm:num_requests_waiting{model_name="llm"}'
            wait_until(lambda: watched.prometheus.query(watched_queue) == [1], "a text waits")
            assert post(server, "/v1/completions", BODY).status_code == 429
            watched.wait_for_alerts("TrigenQueueGrowing", "TrigenRejectsRequests")
            time.sleep(SLOW_SECONDS)
        assert running.result()
        assert waiting.result()
    watched.wait_for_alerts("TrigenFirstTokenSlow")
    assert watched.prometheus.firing()["TrigenRejectsRequests"]["reason"] == "busy"


def test_alerts_fire_when_requests_fail(watched: Watched) -> None:
    expected = {"TrigenErrors", "TrigenErrorBudgetBurnsFast", "TrigenErrorBudgetBurns"}

    def fail_and_look() -> bool:
        failed = httpx.post(f"{watched.server.url}/v1/completions", json=BODY, headers={"X-Request-Timeout": "0.2"}, timeout=HANG_SECONDS)
        assert failed.status_code == 504
        return expected <= set(watched.prometheus.firing())

    with watched.server.texts_held(after=0):
        wait_until(fail_and_look, f"{expected} fire")


def test_an_alert_fires_when_an_engine_is_killed(watched: Watched) -> None:
    only(watched.server, LLM).kill()
    watched.wait_for_alerts("TrigenEngineRestarted")
    assert watched.prometheus.firing()["TrigenEngineRestarted"]["model_name"] == "llm"
    assert complete(watched.server)["choices"]  # the new process answers


def test_alerts_fire_when_the_service_is_killed(watched: Watched) -> None:
    server = psutil.Process(watched.server.pid)
    for process in (server, *server.children(recursive=True)):
        process.kill()
    watched.wait_for_alerts("TrigenDown", "TrigenReplicaDown")
