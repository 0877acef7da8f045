"""The generated Python client and the examples, against the real service: every route, and every error that can be provoked."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.client import CONTEXT
from tests.conftest import PROJECT, Server, Trained, serve

CLIENT = PROJECT / "clients/python"
KEY = "a key"


def trigen_client(name: str) -> Any:
    return importlib.import_module(f"trigen_client.{name}")


@pytest.fixture(autouse=True, scope="module")
def generated() -> Iterator[None]:
    """The client, made anew by `make client-python`: `make test` has done it already."""
    if not CLIENT.exists():
        subprocess.run(["make", "client-python"], cwd=PROJECT, check=True, capture_output=True, timeout=300)
    sys.path.insert(0, str(CLIENT))
    yield
    sys.path.remove(str(CLIENT))


@pytest.fixture(scope="module")
def strict(trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"TRIGEN_API_KEY": KEY, "TRIGEN_TIMEOUT_SECONDS": "2", "TRIGEN_MAX_TEXTS": "16", "TRIGEN_MAX_BODY_BYTES": "20000"}
    with serve(trained, tmp_path_factory.mktemp("strict") / "log", **settings) as running:
        yield running


def client(server: Server, key: str | None = None) -> Any:
    module = trigen_client("client")
    if key:
        return module.AuthenticatedClient(base_url=server.url, token=key, timeout=60, raise_on_unexpected_status=True)
    return module.Client(base_url=server.url, timeout=60, raise_on_unexpected_status=True)


def ask(operation: str, how: str, client: Any, **arguments: Any) -> Any:
    """Call an operation's `sync` or `asyncio`."""
    function = getattr(trigen_client(f"api.{operation}"), how)
    if how == "sync":
        with client:
            return function(client=client, **arguments)

    async def once() -> Any:
        async with client:
            return await function(client=client, **arguments)

    return asyncio.run(once())


def test_it_has_a_class_for_each_component_and_good_names() -> None:
    document = json.loads((PROJECT / "docs/openapi.json").read_text())
    models = trigen_client("models")
    components = set(document["components"]["schemas"])
    classes = {name for name in models.__all__ if isinstance(getattr(models, name), type)}
    assert classes <= components
    aliases = components - classes
    assert all({"enum", "type"} & set(document["components"]["schemas"][name]) for name in aliases)
    assert {"FinishReason", "ModelName", "StreamFinishReason", "LogProbability"} == aliases
    names = {str(path.relative_to(CLIENT)) for path in CLIENT.rglob("*.py")}
    text = "".join(path.read_text() for path in CLIENT.rglob("*.py"))
    assert not [word for word in ("IODescriptor", "service_ap_is") if word in text or any(word in name for name in names)]


@pytest.mark.parametrize("how", ["sync", "asyncio"])
def test_every_route(server: Server, how: str) -> None:
    models = trigen_client("models")
    for name in ("generate_text", "generate_with_rnn"):
        body = models.GenerateRequest(start_word="The", length=5)
        text = ask(f"generation.{name}", how, client(server), body=body)
        assert isinstance(text, models.GenerateResponse)
        assert text.generated_text.startswith("The")
    body = models.GenerateWithLLMRequest(start_word="Who built it?", context=CONTEXT, length=5)
    assert isinstance(ask("generation.generate_with_llm", how, client(server), body=body), models.GenerateResponse)
    body = models.AnswerRequest(question="Who built it?", context=CONTEXT)
    assert isinstance(ask("questions.answer_question", how, client(server), body=body), models.AnswerResponse)
    body = models.CompletionRequest(model="llm", prompt=["The", "A"], n=2, echo=True, logprobs=2, stop=["x", "y"], max_tokens=4)
    completion = ask("openai.create_completion", how, client(server), body=body)
    assert isinstance(completion, models.Completion)
    assert isinstance(completion.choices[0].logprobs, models.Logprobs)
    assert isinstance(completion.choices[0].logprobs.top_logprobs[-1], models.TokenLogprobs)
    assert isinstance(ask("openai.list_models", how, client(server)), models.ModelList)
    assert isinstance(ask("openai.get_model", how, client(server), model="rnn"), models.Model)
    info = ask("service.get_info", how, client(server))
    assert isinstance(info, models.Info)
    assert info.models.llm.tag.startswith("trigen-llm:")
    assert ask("service.check_liveness", how, client(server)) == ask("service.check_readiness", how, client(server)) == "\n"


@pytest.mark.parametrize("how", ["sync", "asyncio"])
def test_problems_are_objects(strict: Server, how: str) -> None:
    models = trigen_client("models")

    def generate(key: str | None = KEY, operation: str = "generate_with_rnn", **body: Any) -> Any:
        request = models.GenerateRequest.from_dict({"start_word": "The", "length": 5} | body)
        return ask(f"generation.{operation}", how, client(strict, key), body=request)

    def check(problem: Any, status: int) -> None:
        assert isinstance(problem, models.ProblemDetails), problem
        assert problem.status == status
        assert problem.request_id

    check(generate(None), 401)
    check(generate(start_word="x" * 20_000), 413)
    wrong = generate(length=0)
    check(wrong, 422)
    assert [(fault.loc, fault.type_) for fault in wrong.errors] == [(["length"], "greater_than_equal")]
    slow: dict[str, Any] = {"start_word": ". " * 2000, "length": 512, "stop": ["no such text"]}
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: generate(**slow), range(16)))
    check(next(answer for answer in answers if isinstance(answer, models.ProblemDetails)), 504)

    def complete(key: str | None = KEY, model: str = "llm", **body: Any) -> Any:
        request = models.CompletionRequest.from_dict({"model": "llm", "prompt": "The"} | body)
        request.model = model
        return ask("openai.create_completion", how, client(strict, key), body=request)

    full: dict[str, Any] = {"model": "rnn", "prompt": ["The"] * 16, "max_tokens": 1024}
    with ThreadPoolExecutor(1) as pool:
        filling = pool.submit(complete, **full)
        time.sleep(0.7)  # else what comes first takes its room
        while isinstance(refused := generate(), models.GenerateResponse):
            assert not filling.done()
            time.sleep(0.05)
        check(refused, 429)
        late = filling.result()

    for error, code in (
        (complete(None), "invalid_api_key"),
        (complete(temperature=3), "less_than_equal"),
        (complete(model="gpt-4"), "model_not_found"),
        (complete(prompt="x" * 20_000), None),
        (late, "timeout"),
    ):
        assert isinstance(error, models.ErrorResponse)
        assert error.error.code == code
        assert isinstance(error.error, models.OpenAIError)


def test_streams(server: Server) -> None:
    models, streaming = trigen_client("models"), trigen_client("streaming")
    for name, body in (
        ("generation.generate_text", models.GenerateRequest(start_word="The", length=5, stream=True)),
        ("openai.create_completion", models.CompletionRequest(model="rnn", prompt="The", stream=True, logprobs=1)),
    ):
        operation = trigen_client(f"api.{name}")
        with client(server) as calling:
            read = list(streaming.stream(operation, client=calling, body=body))

        async def follow(operation: Any = operation, body: Any = body) -> list[Any]:
            async with client(server) as calling:
                return [event async for event in streaming.astream(operation, client=calling, body=body)]

        for events in (read, asyncio.run(follow())):
            last = events[-1].choices[0] if name.startswith("openai") else events[-1]
            assert last.finish_reason == "length"
    wrong = models.GenerateRequest(start_word="The", length=0, stream=True)
    with client(server) as calling, pytest.raises(streaming.Refused) as refused:
        list(streaming.stream(trigen_client("api.generation.generate_text"), client=calling, body=wrong))
    assert refused.value.problem.status == 422


@pytest.mark.parametrize("command", ["generated_client.py", "openai_client.py", "bentoml_client.py", "curl.sh"])
def test_the_examples_run(server: Server, trained: Trained, command: str) -> None:
    path = PROJECT / "examples" / command
    environment = trained.environment() | {"PYTHONPATH": str(CLIENT)}
    words = [str(path), server.url] if path.suffix == ".sh" else [sys.executable, str(path), server.url]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    assert "greater than or equal to 1" in done.stdout or "less than or equal to 2" in done.stdout


def test_the_seeds_own_client_works(server: Server) -> None:
    program = "import requests, sys; print(requests.post(sys.argv[1], json={'start_word': 'The', 'length': 20}).json()['generated_text'])"
    words = [sys.executable, "-c", program, f"{server.url}/generate_text"]
    done = subprocess.run(words, env=os.environ | {"NO_PROXY": "127.0.0.1"}, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("The"), done.stderr


def test_the_lm_eval_tasks_put_a_question_as_it_is_learned() -> None:
    import jinja2
    import yaml

    from models.llm import answer_text, question_prompt

    row: dict[str, Any] = {"context": " From 1889 it was kept. ", "question": " Who kept it?", "answers": {"text": ["Anna Berg"]}}
    for name in ("answers", "answer_likelihood"):
        task = yaml.safe_load((PROJECT / f"examples/lm_eval/{name}.yaml").read_text())
        assert jinja2.Template(task["doc_to_text"]).render(row) == question_prompt(row["question"], row["context"])
    assert jinja2.Template(task["doc_to_target"]).render(row) == answer_text("Anna Berg")
    assert Path(PROJECT / task["dataset_kwargs"]["data_files"]["validation"]).exists()
