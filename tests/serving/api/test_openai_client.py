"""OpenAI's official client against the real service."""

import asyncio
from collections.abc import Iterator

import openai
import pytest

from tests.client import MODELS
from tests.conftest import Server


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def test_it_lists_and_gets_models(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == MODELS
    assert client.models.retrieve("rnn").id == "rnn"


@pytest.mark.parametrize("model", MODELS)
def test_it_completes_a_prompt(client: openai.OpenAI, model: str) -> None:
    completion = client.completions.create(model=model, prompt="The", max_tokens=5, n=2, logprobs=1, echo=True, seed=3)
    assert [choice.index for choice in completion.choices] == [0, 1]
    assert all(choice.text.startswith("The") for choice in completion.choices)
    assert completion.choices[0].logprobs
    assert completion.usage
    assert completion.usage.completion_tokens <= 10


@pytest.mark.parametrize("model", MODELS)
def test_it_reads_streams(client: openai.OpenAI, model: str) -> None:
    parameters = {"model": model, "prompt": "The", "max_tokens": 20, "seed": 3}
    whole = client.completions.create(**parameters)  # type: ignore[call-overload]
    chunks = list(client.completions.create(**parameters, stream=True, stream_options={"include_usage": True}))  # type: ignore[call-overload]
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == whole.choices[0].text
    assert chunks[-1].usage == whole.usage


def test_its_asynchronous_client_reads_streams(server: Server) -> None:
    async def complete() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="none") as client:
            stream = await client.completions.create(model="bigram", prompt="The", max_tokens=5, stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

    assert asyncio.run(complete())


def test_it_raises_its_own_exceptions(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as wrong:
        client.completions.create(model="llm", prompt="The", temperature=3)
    assert (wrong.value.param, wrong.value.code) == ("temperature", "less_than_equal")
    assert isinstance(wrong.value.body, dict)
    assert wrong.value.request_id == wrong.value.body["request_id"]
    with pytest.raises(openai.BadRequestError, match="best_of"):
        client.completions.create(model="llm", prompt="The", best_of=3)
    with pytest.raises(openai.NotFoundError) as missing:
        client.completions.create(model="gpt-4", prompt="The")
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")
