"""Call the service with the client from `make client`: PYTHONPATH=clients/python python examples/generated_client.py [URL]"""

import asyncio
import os
import sys

from trigen_client import AuthenticatedClient, Client
from trigen_client.api.generation import generate_text, generate_with_llm
from trigen_client.api.openai import create_completion
from trigen_client.api.questions import answer_question
from trigen_client.api.service import get_info
from trigen_client.models import (
    AnswerRequest,
    AnswerResponse,
    Completion,
    CompletionRequest,
    GenerateRequest,
    GenerateResponse,
    GenerateWithLLMRequest,
    Info,
    ProblemDetails,
)
from trigen_client.streaming import stream

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"
KEY = os.environ.get("TRIGEN_API_KEY")
PASSAGE = "From 1889 to 1921 the light was kept by Anna Berg."

client = AuthenticatedClient(base_url=URL, token=KEY, timeout=60) if KEY else Client(base_url=URL, timeout=60)

text = generate_text.sync(client=client, body=GenerateRequest(start_word="The", length=20))
if not isinstance(text, GenerateResponse):
    sys.exit(f"refused: {text}")
print("text:", text.generated_text)

# The client returns errors as objects and raises no exception.
problem = generate_text.sync(client=client, body=GenerateRequest(start_word="The", length=0))
assert isinstance(problem, ProblemDetails)
print("problem:", problem.status, problem.detail)

for event in stream(generate_with_llm, client=client, body=GenerateWithLLMRequest(start_word="The", length=20, stream=True)):
    print(event.text, end="")
print("\nfinish_reason:", event.finish_reason)


async def concurrent_calls() -> None:
    """Make three calls at once."""
    answer, completion, info = await asyncio.gather(
        answer_question.asyncio(client=client, body=AnswerRequest(question="Who kept the light?", context=PASSAGE)),
        create_completion.asyncio(client=client, body=CompletionRequest(model="rnn", prompt="The", max_tokens=8)),
        get_info.asyncio(client=client),
    )
    if not (isinstance(answer, AnswerResponse) and isinstance(completion, Completion) and isinstance(info, Info)):
        sys.exit(f"refused: {answer} {completion}")
    print("answer:", answer.answer, answer.score)
    print("completion:", completion.choices[0].text)
    print("info:", info.models.llm.tag, info.limits.context_tokens)


asyncio.run(concurrent_calls())
