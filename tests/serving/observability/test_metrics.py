"""The metrics of the real service."""

import http.client
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from serving.observability.metrics import ModelMetrics, before_scrape, update_metrics
from tests.client import CONTEXT, GENERATE_BODY, MODELS, complete, get, post, stream_events
from tests.conftest import Server

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(server: Server) -> Samples:
    """Return the value of each series, by name and labels."""
    families = text_string_to_metric_families(get(f"{server.url}/metrics").text)
    return {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for family in families for sample in family.samples}


def value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, tuple(sorted(labels.items()))]


def request(server: Server, method: str, path: str) -> int:
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    connection.request(method, path)
    status = connection.getresponse().status
    connection.close()
    return status


def test_no_metric_is_kept_in_a_file(server: Server) -> None:
    assert scrape(server)
    (worker,) = (each for each in psutil.Process(server.pid).children() if "_bentoml_impl.worker.service" in each.cmdline())
    assert [mapped.path for mapped in worker.memory_maps() if mapped.path.endswith(".db")] == []


def test_paths_and_methods_that_clients_invent_make_no_series(server: Server) -> None:
    request(server, "GET", "/nowhere")
    request(server, "PUT", "/info")
    scrape(server)  # the first one makes the series of `/metrics`
    before = scrape(server)
    for number in range(200):
        request(server, ("PUT", "PATCH", "PROPFIND")[number % 3], "/info" if number % 2 else f"/{number}")
        request(server, "GET", f"/v1/{number}/{number}")
    after = scrape(server)
    assert set(after) == set(before)
    assert not any("bentoml" in name and "request" in name for name, _ in after)
    counts = [value(samples, "http_requests_total", method="ANY", handler="unmatched", status="404") for samples in (before, after)]
    assert counts[1] - counts[0] == 300


def test_the_tags_of_the_served_models_are_shown(server: Server) -> None:
    samples = scrape(server)
    for name, model in get(f"{server.url}/info").json()["models"].items():
        assert value(samples, "trigen_model_info", model_name=name, tag=model["tag"]) == 1


@pytest.mark.parametrize("model", MODELS)
def test_the_texts_of_a_model_are_counted_and_timed(server: Server, model: str) -> None:
    def counted(samples: Samples) -> dict[str, float]:
        names = ["prompt_tokens_total", "generation_tokens_total", "e2e_request_latency_seconds_count", "request_queue_time_seconds_count"]
        counts = {name: value(samples, f"vllm:{name}", model_name=model) for name in names}
        for reason in ("length", "stop", "abort"):
            counts[reason] = value(samples, "vllm:request_success_total", model_name=model, finished_reason=reason)
        counts["first"] = value(samples, "vllm:time_to_first_token_seconds_count", model_name=model)
        counts["between"] = value(samples, "vllm:inter_token_latency_seconds_count", model_name=model)
        return counts

    before = counted(scrape(server))
    body = {"prompt": ["The light", "A ship"], "n": 2, "max_tokens": 20, "seed": 1, "temperature": 2}
    whole = complete(server, model, **body)
    middle = counted(scrape(server))
    change = {name: middle[name] - before[name] for name in before}
    reasons = [choice["finish_reason"] for choice in whole["choices"]]
    assert change["prompt_tokens_total"] == whole["usage"]["prompt_tokens"] * 2  # each text reads its prompt
    assert change["generation_tokens_total"] == whole["usage"]["completion_tokens"]
    assert change["e2e_request_latency_seconds_count"] == change["request_queue_time_seconds_count"] == 4
    assert {reason: change[reason] for reason in ("length", "stop", "abort")} == {
        "length": reasons.count("length"),
        "stop": reasons.count("stop"),
        "abort": 0,
    }
    assert change["between"] == 0  # an unstreamed text has no times between tokens that a client could see
    stream_events(server, "/v1/completions", {"model": model} | body | {"stop": ["no such text"]})
    after = counted(scrape(server))
    assert after["first"] - middle["first"] == 4
    assert after["between"] - middle["between"] > 0
    assert value(scrape(server), "vllm:num_requests_running", model_name=model) == 0


def test_answers_are_counted_with_their_scores(server: Server) -> None:
    def counted(samples: Samples) -> list[float]:
        scores = value(samples, "trigen_answer_score_count", model_name="llm")
        spans = [samples.get(("trigen_answers_total", (("model_name", "llm"), ("span", span))), 0) for span in ("true", "false", "none")]
        return [scores, sum(spans)]

    before = scrape(server)
    answer: dict[str, Any] = post(server, "/answer_question", {"question": "Who built it?", "context": CONTEXT}).json()
    after = scrape(server)
    assert counted(after) == [count + 1 for count in counted(before)]
    sums = [value(samples, "trigen_answer_score_sum", model_name="llm") for samples in (before, after)]
    assert sums[1] - sums[0] == pytest.approx(answer["score"])


def test_requests_are_counted_by_the_template_of_their_route(server: Server) -> None:
    def counted(samples: Samples, method: str, handler: str, status: str) -> float:
        return samples.get(("http_requests_total", (("handler", handler), ("method", method), ("status", status))), 0)

    before = scrape(server)
    post(server, "/generate_text", GENERATE_BODY)
    get(f"{server.url}/v1/models/llm")
    get(f"{server.url}/v1/models/{'x' * 50}")
    after = scrape(server)
    for series in (("POST", "/generate_text", "200"), ("GET", "/v1/models/{model}", "200"), ("GET", "/v1/models/{model}", "404")):
        assert counted(after, *series) == counted(before, *series) + 1
    assert value(after, "http_requests_in_progress") == 1  # the one for the metrics


def test_the_engines_of_the_llm_and_the_lstm_are_ready(server: Server) -> None:
    samples = scrape(server)
    for model in ("llm", "rnn"):
        assert value(samples, "trigen_engine_ready", model_name=model) == 1
        assert value(samples, "trigen_engine_restarts_total", model_name=model) == 0
    assert ("trigen_engine_ready", (("model_name", "bigram"),)) not in samples


def test_each_restart_of_an_engine_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("serving.observability.metrics.before_scrape", waiting := list(before_scrape))
    engine, labels = SimpleNamespace(ready=True, restarts=0), {"model_name": "watched"}
    ModelMetrics("watched", "watched:1").watch_engine(engine)
    assert len(waiting) == len(before_scrape) + 1
    for ready, restarts in ((True, 0), (False, 2), (True, 3), (True, 3)):
        engine.ready, engine.restarts = ready, restarts
        update_metrics()
        assert REGISTRY.get_sample_value("trigen_engine_ready", labels) == ready
        assert REGISTRY.get_sample_value("trigen_engine_restarts_total", labels) == restarts
