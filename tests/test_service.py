"""The real service over HTTP, on the models of the real `train.py`."""

import asyncio
import re
import shutil
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from models.answering.answers import DECLINED
from models.answering.prompts import question_prompt
from models.base import SamplingParams, TextModel
from models.bigram import Bigram
from models.engines.tokenization import load_tokenizer
from models.llm import LLM
from models.rnn import RNN
from serving.openapi import document
from tests.client import CONTEXT, GENERATE_BODY, GENERATE_ROUTES, complete, get, post
from tests.conftest import PROJECT, Server, Trained, run


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_the_prompt_and_its_continuation_are_returned(server: Server, route: str) -> None:
    answer = post(server, route, GENERATE_BODY)
    assert answer.status_code == 200
    body = answer.json()
    assert body["generated_text"].startswith("The")
    assert (body["new_tokens"], body["finish_reason"]) == (20, "length") or (route, body["finish_reason"]) == ("/generate_with_llm", "stop")
    assert body["model"].startswith("trigen-")


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_the_returned_seed_gives_the_same_text_again(server: Server, route: str) -> None:
    for _ in range(8):
        drawn = post(server, route, GENERATE_BODY).json()
        assert post(server, route, GENERATE_BODY | {"seed": drawn["seed"]}).json() == drawn
    hot = GENERATE_BODY | {"temperature": 2, "top_p": 1}
    assert len({post(server, route, hot | {"seed": seed}).json()["generated_text"] for seed in range(8)}) > 1


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_temperature_0_top_k_1_and_a_tiny_top_p_are_greedy(server: Server, route: str) -> None:
    greedy = [post(server, route, GENERATE_BODY | {"temperature": 0, "seed": seed}).json()["generated_text"] for seed in (1, 2)]
    assert greedy[0] == greedy[1]
    narrow = post(server, route, GENERATE_BODY | {"temperature": 1, "top_k": 1, "seed": 3}).json()["generated_text"]
    assert narrow == greedy[0]
    nucleus = post(server, route, GENERATE_BODY | {"temperature": 1, "top_p": 1e-6, "seed": 3}).json()["generated_text"]
    assert nucleus == greedy[0]


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_the_text_ends_before_a_stop_string(server: Server, route: str) -> None:
    for seed in range(20):  # until a text is long enough to contain a stop string
        body = GENERATE_BODY | {"temperature": 2, "top_p": 1, "seed": seed}
        added = post(server, route, body).json()["generated_text"].removeprefix("The")
        if len(added) > 4:
            break
    stop = added[2:5]
    stopped = post(server, route, body | {"stop": [stop]}).json()
    assert stopped["finish_reason"] == "stop"
    assert stopped["generated_text"] == "The" + added[: added.index(stop)]


@pytest.mark.parametrize("route", GENERATE_ROUTES)
def test_the_text_begins_with_the_prompt_whatever_it_is(server: Server, route: str) -> None:
    for prompt in ("zzyzx", "naïve — “café”\n", " ", "🦀", "x" * 500):
        text = post(server, route, {"start_word": prompt, "length": 3}).json()["generated_text"]
        assert text.startswith(prompt)


@pytest.mark.parametrize("route", GENERATE_ROUTES)
@pytest.mark.parametrize("length", [1, 512])
def test_length_may_have_its_smallest_and_its_largest_value(server: Server, route: str, length: int) -> None:
    body = post(server, route, {"start_word": "The", "length": length}).json()
    assert body["new_tokens"] == length or body["finish_reason"] == "stop"


def test_the_same_seed_gives_the_same_text_among_other_requests_and_in_another_process(server: Server, trained: Trained) -> None:
    bodies = [(route, GENERATE_BODY | {"seed": seed}) for route in GENERATE_ROUTES for seed in range(8)]
    alone = [post(server, route, body).json() for route, body in bodies]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(lambda request: post(server, *request).json(), bodies))
    assert together == alone

    async def generate_here(model: TextModel, seed: int) -> str:
        return "The" + "".join([token.text async for token in model.stream("The", SamplingParams(20, seed=seed))])

    with closing(LLM.load(trained.output / "llm", "openvino", reproducible=True)) as llm, closing(RNN.load(trained.output / "rnn")) as rnn:
        models = (Bigram.load(trained.output / "bigram"), rnn, llm)
        texts = [asyncio.run(generate_here(model, seed)) for model in models for seed in range(8)]
    assert [answer["generated_text"] for answer in alone] == texts


def test_only_a_question_goes_through_the_question_template(server: Server, trained: Trained) -> None:
    tokenizer = load_tokenizer(trained.output / "llm")
    question = "Who built the lighthouse?"
    asked = post(server, "/generate_with_llm", {"start_word": question, "length": 20}).json()
    assert asked["generated_text"].startswith(question)
    template = tokenizer.encode(question_prompt(question)).ids  # as ids, because a text would get a document start
    expected = complete(server, prompt=template, max_tokens=20, temperature=0)["choices"][0]
    assert (asked["generated_text"], asked["finish_reason"]) == (question + expected["text"], expected["finish_reason"])
    statement = question.removesuffix("?")
    continued = post(server, "/generate_with_llm", {"start_word": statement, "length": 20, "temperature": 0}).json()
    expected = complete(server, prompt=statement, max_tokens=20, temperature=0)["choices"][0]
    assert continued["generated_text"] == statement + expected["text"]
    again = post(server, "/generate_with_llm", {"start_word": question, "length": 20}).json()
    assert again["generated_text"] == asked["generated_text"]  # questions are greedy by default, so the drawn seed does not matter


def test_a_question_that_the_context_does_not_answer_is_declined_above_a_threshold(server: Server) -> None:
    body = {"question": "Who built it?", "context": CONTEXT}
    answered = post(server, "/answer_question", body | {"no_answer_threshold": 1}).json()
    assert isinstance(answered["answer"], str)
    declined = post(server, "/answer_question", body | {"no_answer_threshold": 0}).json()
    assert (declined["answer"], declined["start"], declined["end"]) == (None, None, None)
    assert declined["score"] == declined["no_answer_probability"] == pytest.approx(answered["no_answer_probability"], abs=0.05)
    by_default = post(server, "/answer_question", body).json()["answer"]
    in_words = post(server, "/generate_with_llm", {"start_word": body["question"], "context": CONTEXT, "length": 20}).json()
    assert in_words["generated_text"].startswith(body["question"])
    assert in_words["generated_text"].endswith(DECLINED) == (by_default is None)


def test_a_context_precedes_a_prompt_that_is_not_a_question(server: Server) -> None:
    body = {"start_word": "The", "length": 20, "seed": 3, "temperature": 2, "top_p": 1}
    alone = post(server, "/generate_with_llm", body).json()
    after = post(server, "/generate_with_llm", body | {"context": CONTEXT}).json()
    assert after["generated_text"].startswith("The")
    assert after["generated_text"] != alone["generated_text"]
    whole = post(server, "/generate_with_llm", body | {"start_word": f"{CONTEXT}\nThe"}).json()
    assert whole["generated_text"] == f"{CONTEXT}\n{after['generated_text']}"


def test_an_integer_may_be_written_with_a_decimal_point(server: Server) -> None:
    whole = post(server, "/generate_text", {"start_word": "The", "length": 5.0, "seed": 7.0}).json()
    assert whole == post(server, "/generate_text", {"start_word": "The", "length": 5, "seed": 7}).json()
    assert post(server, "/generate_text", {"start_word": "The", "length": 5.5}).status_code == 422


def test_an_answer_has_a_score_and_its_offsets_in_the_context(server: Server) -> None:
    body = post(server, "/answer_question", {"question": "Who built it?", "context": CONTEXT, "no_answer_threshold": 1}).json()
    assert set(body) == {"answer", "score", "start", "end", "likelihood", "no_answer_probability", "answers", "model"}
    assert body["answers"] == []
    assert all(0 <= body[name] <= 1 for name in ("score", "likelihood", "no_answer_probability"))
    if body["start"] is None:
        assert body["end"] is None
    else:
        assert CONTEXT[body["start"] : body["end"]] == body["answer"]


def test_extractive_answers_are_spans_of_the_context_the_best_first(server: Server) -> None:
    context = f"  {CONTEXT}\n"
    body = {"question": "Who built it?", "context": context, "no_answer_threshold": 1}
    one = post(server, "/answer_question", body | {"extractive": True}).json()
    several = post(server, "/answer_question", body | {"extractive": True, "answers": 5}).json()
    assert one["answer"] == several["answer"] == several["answers"][0]["answer"]
    assert len({answer["answer"] for answer in several["answers"]}) == 5
    for answer in (one, several, *several["answers"]):
        assert context[answer["start"] : answer["end"]] == answer["answer"]
    likelihoods = [answer["likelihood"] for answer in several["answers"]]
    assert likelihoods[1:] == sorted(likelihoods[1:], reverse=True)
    assert post(server, "/answer_question", body | {"no_answer_threshold": 0, "answers": 2}).json()["answers"] == []


def test_a_context_without_a_short_span_has_no_extractive_answer(server: Server) -> None:
    body = {"question": "Who built it?", "context": "x1" * 100, "no_answer_threshold": 1, "extractive": True}
    declined = post(server, "/answer_question", body).json()
    assert (declined["answer"], declined["start"]) == (None, None)


def test_info_describes_the_models_the_comparison_and_the_limits(server: Server, trained: Trained) -> None:
    body = get(f"{server.url}/info").json()
    assert set(body["models"]) == {"bigram", "rnn", "llm"}
    assert all(model["tag"] in trained.printed for model in body["models"].values())
    assert body["models"]["llm"]["metrics"]["questions"] == 9  # of 12, three of which are unanswerable
    assert body["models"]["llm"]["dataset"]["train_rows"] == 866
    assert set(body["comparison"]["models"]) == {"unigram", "bigram", "rnn", "base", "llm"}
    assert body["limits"]["length"] == [1, 512]
    assert body["limits"]["start_word_characters"] == [1, 4000]
    assert body["limits"]["context_tokens"] == 768


def test_bentomls_own_client_works(server: Server) -> None:
    import bentoml

    with bentoml.SyncHTTPClient(server.url) as client:
        assert client.generate_text(start_word="The", length=5)["generated_text"].startswith("The")


def failed_start(home: Path, **environment: str) -> str:
    """Start `bentoml serve`, which must fail, and return the one line that it prints."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    done = run(["-m", "bentoml", "serve", "--host", "127.0.0.1", "--port", str(port)], home, **environment)
    assert done.returncode != 0
    lines = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    assert len(lines) == 1, lines
    return lines[0]


def test_a_missing_model_stops_the_start_with_one_line(tmp_path: Path) -> None:
    message = failed_start(tmp_path)
    assert "no trigen-bigram in the model store: run `make serve` or `python train.py --preset quickstart` to train it" in message


def test_a_missing_version_stops_the_start_with_one_line(trained: Trained) -> None:
    message = failed_start(trained.home, TRIGEN_LLM_VERSION="x")
    fetch = r"fetch it with `python -m models\.store pull URL trigen-llm:x`"
    assert re.search(rf"no trigen-llm:x in the model store, which holds \w+: {fetch}", message)


def test_a_wrong_setting_stops_the_start_with_one_line(trained: Trained) -> None:
    assert "TRIGEN_ENGINE: Input should be 'auto', 'openvino' or 'transformers'" in failed_start(trained.home, TRIGEN_ENGINE="tpu")
    message = failed_start(trained.home, TRIGEN_ENGINE="transformers", TRIGEN_REPRODUCIBLE="true")
    assert "TRIGEN_REPRODUCIBLE: Value error, only the CPU engine is reproducible: set TRIGEN_ENGINE=openvino" in message
    assert "TRIGEN_MAX_BODY_BYTES: " in failed_start(trained.home, TRIGEN_MAX_BODY_BYTES="1 MB")


def test_a_damaged_model_stops_the_start_with_one_line(trained: Trained, tmp_path: Path) -> None:
    shutil.copytree(trained.home / "bentoml/models", tmp_path / "bentoml/models")
    (weights,) = (tmp_path / "bentoml/models/trigen-rnn").glob("*/*.safetensors")
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    message = failed_start(tmp_path)
    assert f"trigen-rnn:{weights.parent.name} in the model store is damaged: {weights.name} does not match its checksum." in message
    (weights.parent / "model.yaml").write_bytes(b"")
    assert "the newest trigen-rnn in the model store is damaged: its model.yaml cannot be read." in failed_start(tmp_path)


def test_the_bento_contains_the_three_models_and_only_its_own_files(trained: Trained) -> None:
    done = run(["-m", "bentoml", "build", "--output", "tag"], trained.home)
    assert done.returncode == 0, done.stderr
    tag = re.search(r"trigen:(\w+)", done.stdout)
    assert tag
    bento = trained.home / "bentoml/bentos/trigen" / tag[1]
    files = {str(path.relative_to(bento / "src")) for path in (bento / "src").rglob("*") if path.is_file()}
    modules = {str(path.relative_to(PROJECT)) for package in ("models", "serving") for path in (PROJECT / package).rglob("*.py")}
    assert {"service.py", "serving/swagger.html", *modules} <= files
    page = PROJECT / "serving/page"  # with the licences of what is vendored
    served = {path for path in page.rglob("*") if path.is_file() and not path.name.endswith(".d.ts")}
    assert {str(path.relative_to(PROJECT)) for path in served} == {file for file in files if file.startswith("serving/page/")}
    assert not [
        file
        for file in files
        if file.startswith(("training", "tests", "data", "runs", "clients", "examples", "docs", ".")) or file == "train.py"
    ]
    assert yaml.safe_load((bento / "apis/openapi.yaml").read_text()) == document()
    description = yaml.safe_load((bento / "bento.yaml").read_text())
    packed = [model["tag"] for service in description["services"] for model in service["models"]]
    assert sorted(packed) == sorted(trained.printed.splitlines()[-1].removeprefix("registered: ").split(", "))
    requirements = (bento / "env/python/requirements.txt").read_text()
    assert not re.search(r"^(torch|transformers|datasets|nncf)\b", requirements, re.MULTILINE)
    locked = (PROJECT / "serving/requirements.lock").read_text().splitlines()
    assert set(locked) <= set(requirements.splitlines())  # with all hashes
