"""The generated Python client and the examples, against the real service: every route, and every error that a client can cause."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.client import CONTEXT, waiting_texts
from tests.conftest import HANG_SECONDS, KEY, PROJECT, HeldServer, Server, Trained, wait_until

CLIENT = PROJECT / "clients/python"


def trigen_client(name: str) -> Any:
    """Import a module of the generated client."""
    return importlib.import_module(f"trigen_client.{name}")


@pytest.fixture(autouse=True, scope="module")
def generated() -> Iterator[None]:
    """Put the client on the path. `make test` has generated it; otherwise `make client-python` does so now."""
    if not CLIENT.exists():
        subprocess.run(["make", "client-python"], cwd=PROJECT, check=True, capture_output=True, timeout=1800)
    sys.path.insert(0, str(CLIENT))
    yield
    sys.path.remove(str(CLIENT))


def client(server: Server, key: str | None = None) -> Any:
    """Return a generated client of the server."""
    module = trigen_client("client")
    if key:
        return module.AuthenticatedClient(base_url=server.url, token=key, timeout=HANG_SECONDS, raise_on_unexpected_status=True)
    return module.Client(base_url=server.url, timeout=HANG_SECONDS, raise_on_unexpected_status=True)


def call(operation: str, how: str, client: Any, **arguments: Any) -> Any:
    """Call an operation's function `sync` or `asyncio`."""
    function = getattr(trigen_client(f"api.{operation}"), how)
    if how == "sync":
        with client:
            return function(client=client, **arguments)

    async def once() -> Any:
        async with client:
            return await function(client=client, **arguments)

    return asyncio.run(once())


def test_the_client_has_a_class_for_each_component_and_readable_names() -> None:
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
def test_the_client_calls_every_route(server: Server, how: str) -> None:
    models = trigen_client("models")
    for name in ("generate_text", "generate_with_rnn"):
        body = models.GenerateRequest(start_word="The", length=5)
        text = call(f"generation.{name}", how, client(server), body=body)
        assert isinstance(text, models.GenerateResponse)
        assert text.generated_text.startswith("The")
    body = models.GenerateWithLLMRequest(start_word="Who built it?", context=CONTEXT, length=5)
    assert isinstance(call("generation.generate_with_llm", how, client(server), body=body), models.GenerateResponse)
    body = models.AnswerRequest(question="Who built it?", context=CONTEXT)
    assert isinstance(call("questions.answer_question", how, client(server), body=body), models.AnswerResponse)
    body = models.CompletionRequest(model="llm", prompt=["The", "A"], n=2, echo=True, logprobs=2, stop=["x", "y"], max_tokens=4)
    completion = call("openai.create_completion", how, client(server), body=body)
    assert isinstance(completion, models.Completion)
    assert isinstance(completion.choices[0].logprobs, models.Logprobs)
    assert isinstance(completion.choices[0].logprobs.top_logprobs[-1], models.TokenLogprobs)
    assert isinstance(call("openai.list_models", how, client(server)), models.ModelList)
    assert isinstance(call("openai.get_model", how, client(server), model="rnn"), models.Model)
    info = call("service.get_info", how, client(server))
    assert isinstance(info, models.Info)
    assert info.models.llm.tag.startswith("trigen-llm:")
    assert call("service.check_liveness", how, client(server)) == call("service.check_readiness", how, client(server)) == "\n"


@pytest.mark.parametrize("how", ["sync", "asyncio"])
def test_problems_are_returned_as_objects(strict: HeldServer, hurried: HeldServer, how: str) -> None:
    models = trigen_client("models")

    def generate(server: Server = strict, key: str | None = KEY, **body: Any) -> Any:
        request = models.GenerateRequest.from_dict({"start_word": "The", "length": 5} | body)
        return call("generation.generate_with_rnn", how, client(server, key), body=request)

    def check(problem: Any, status: int) -> None:
        assert isinstance(problem, models.ProblemDetails), problem
        assert problem.status == status
        assert problem.request_id

    check(generate(key=None), 401)
    check(generate(start_word="x" * 20_000), 413)
    wrong = generate(length=0)
    check(wrong, 422)
    assert [(fault.loc, fault.type_) for fault in wrong.errors] == [(["length"], "greater_than_equal")]

    def complete(server: Server = strict, key: str | None = KEY, model: str = "llm", **body: Any) -> Any:
        request = models.CompletionRequest.from_dict({"model": "llm", "prompt": "The"} | body)
        request.model = model
        return call("openai.create_completion", how, client(server, key), body=request)

    with ThreadPoolExecutor(2) as pool:
        with strict.texts_held(after=0):
            running = [pool.submit(complete, model="rnn", prompt=["The"] * 16) for _ in range(2)]
            wait_until(lambda: waiting_texts(strict, "rnn") == 16, "16 texts run and 16 wait")
            check(generate(), 429)
            busy = complete(model="rnn")
        assert all(isinstance(each.result(), models.Completion) for each in running)
    with ThreadPoolExecutor(2) as pool, hurried.texts_held(after=0):
        slow, slow_completion = pool.submit(generate, hurried), pool.submit(complete, hurried, model="rnn")
        check(slow.result(), 504)
        late_completion = slow_completion.result()

    for error, code in (
        (complete(key=None), "invalid_api_key"),
        (complete(temperature=3), "less_than_equal"),
        (complete(model="gpt-4"), "model_not_found"),
        (complete(prompt="x" * 20_000), None),
        (busy, "too_many_requests"),
        (late_completion, "timeout"),
    ):
        assert isinstance(error, models.ErrorResponse)
        assert error.error.code == code
        assert isinstance(error.error, models.OpenAIError)


def test_the_client_reads_streams(server: Server) -> None:
    models, streaming = trigen_client("models"), trigen_client("streaming")
    for name, body in (
        ("generation.generate_text", models.GenerateRequest(start_word="The", length=5, stream=True)),
        ("openai.create_completion", models.CompletionRequest(model="rnn", prompt="The", stream=True, logprobs=1)),
    ):
        operation = trigen_client(f"api.{name}")
        with client(server) as session:
            read = list(streaming.stream(operation, client=session, body=body))

        async def follow(operation: Any = operation, body: Any = body) -> list[Any]:
            async with client(server) as session:
                return [event async for event in streaming.astream(operation, client=session, body=body)]

        for events in (read, asyncio.run(follow())):
            last = events[-1].choices[0] if name.startswith("openai") else events[-1]
            assert last.finish_reason == "length"
    wrong = models.GenerateRequest(start_word="The", length=0, stream=True)
    with client(server) as session, pytest.raises(streaming.Refused) as refused:
        list(streaming.stream(trigen_client("api.generation.generate_text"), client=session, body=wrong))
    assert refused.value.problem.status == 422


class Broken(httpx.SyncByteStream, httpx.AsyncByteStream):
    """A response body that arrives in part."""

    def __init__(self, received: bytes, error: httpx.TransportError | None) -> None:
        self.received = received
        self.error = error

    def __iter__(self) -> Iterator[bytes]:
        yield self.received
        if self.error:
            raise self.error

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self:
            yield piece


@pytest.mark.parametrize("error", [None, httpx.RemoteProtocolError("incomplete chunked read"), httpx.ReadError("reset")], ids=repr)
@pytest.mark.parametrize(
    ("operation", "last"),
    [
        ("generation.generate_text", b'data: {"text": " a", "finish_reason": "length"}\n\n'),
        ("openai.create_completion", b"data: [DONE]\n\n"),
    ],
)
def test_the_client_raises_an_error_if_a_stream_is_cut_off(operation: str, last: bytes, error: httpx.TransportError | None) -> None:
    models, streaming, module = trigen_client("models"), trigen_client("streaming"), trigen_client(f"api.{operation}")
    body = models.GenerateRequest(start_word="The", length=5)

    def follow(how: str, received: bytes) -> list[Any]:
        transport = httpx.MockTransport(lambda request: httpx.Response(200, stream=Broken(received, error)))
        session = trigen_client("client").Client(base_url="http://trigen", httpx_args={"transport": transport})

        async def follow_async() -> list[Any]:
            async with session:
                return [event async for event in streaming.astream(module, client=session, body=body)]

        return asyncio.run(follow_async()) if how == "async" else list(streaming.stream(module, client=session, body=body))

    for how in ("sync", "async"):
        with pytest.raises(streaming.CutOff, match="Send the request again"):
            follow(how, b'data: {"text": " a"}\n\n')
        if not error:
            follow(how, b'data: {"text": " a"}\n\n' + last)


@pytest.mark.parametrize("example", ["generated_client.py", "openai_client.py", "bentoml_client.py", "curl.sh"])
def test_the_examples_run(server: Server, trained: Trained, example: str) -> None:
    path = PROJECT / "examples" / example
    environment = trained.environment() | {"PYTHONPATH": str(CLIENT)}
    command = [str(path), server.url] if path.suffix == ".sh" else [sys.executable, str(path), server.url]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert (done.returncode, done.stderr) == (0, "")
    # Every example also prints the message of a request that the service refuses.
    assert "greater than or equal to 1" in done.stdout or "less than or equal to 2" in done.stdout


def test_the_request_of_the_original_specification_works(server: Server) -> None:
    program = "import requests, sys; print(requests.post(sys.argv[1], json={'start_word': 'The', 'length': 20}).json()['generated_text'])"
    command = [sys.executable, "-c", program, f"{server.url}/generate_text"]
    done = subprocess.run(command, env=os.environ | {"NO_PROXY": "127.0.0.1"}, capture_output=True, text=True, timeout=HANG_SECONDS)
    assert done.stdout.startswith("The"), done.stderr


def test_the_lm_eval_tasks_use_the_question_template_of_training() -> None:
    import jinja2
    import yaml

    from models.answering.prompts import ANSWER_FOLLOWS, answer_text, question_prompt, undecided_prompt

    class Loader(yaml.SafeLoader):
        """Reads lm-eval's references to functions as text."""

    Loader.add_constructor("!function", lambda loader, node: node.value)
    row: dict[str, Any] = {"context": " From 1889 it was kept. ", "question": " Who kept it?", "answers": {"text": ["Anna Berg"]}}
    # Each task's prompt and target. Where the answer's likelihood counts, it has the space that precedes it in training.
    tasks = {
        "answers": (question_prompt, "Anna Berg"),
        "answer_likelihood": (question_prompt, answer_text("Anna Berg")),
        "squad2": (undecided_prompt, "Anna Berg"),
        "no_answer": (undecided_prompt, ANSWER_FOLLOWS),
    }
    assert {path.stem for path in (PROJECT / "examples/lm_eval").glob("*.yaml")} == set(tasks)
    for name, (prompt, target) in tasks.items():
        task = yaml.load((PROJECT / f"examples/lm_eval/{name}.yaml").read_text(), Loader)
        assert jinja2.Template(task["doc_to_text"]).render(row) == prompt(row["question"], row["context"])
        assert jinja2.Template(task["doc_to_target"]).render(row) == target
        assert Path(PROJECT / task["dataset_kwargs"]["data_files"]["validation"]).exists()


def test_the_lm_eval_tasks_score_as_squad_2_does() -> None:
    from examples.lm_eval.squad2 import area_under_curve, score_answer, score_decision

    answerable: dict[str, Any] = {"answers": {"text": ["the keeper", "Anna Berg"]}}
    unanswerable: dict[str, Any] = {"answers": {"text": []}}
    assert score_answer(answerable, [": Keeper"]) == {"exact_match": 1, "f1": 1, "has_answer_exact_match": 1}
    assert score_answer(answerable, [": Anna"]) == {"exact_match": 0, "f1": pytest.approx(2 / 3), "has_answer_exact_match": 0}
    assert score_answer(answerable, [""])["f1"] == 0
    assert score_answer(unanswerable, [""]) == {"exact_match": 1, "f1": 1, "no_answer_exact_match": 1}
    assert score_answer(unanswerable, [": Anna"]) == {"exact_match": 0, "f1": 0, "no_answer_exact_match": 0}
    decisions = [(answerable, -0.1), (unanswerable, -2.0), (answerable, -1.0), (unanswerable, -0.5)]
    assert area_under_curve([score_decision(doc, [(logprob, False)])["auc"] for doc, logprob in decisions]) == 0.75
