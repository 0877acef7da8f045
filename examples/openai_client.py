"""Call the service with OpenAI's official client: python examples/openai_client.py [URL]"""

import os
import sys

import openai

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"

client = openai.OpenAI(base_url=f"{URL}/v1", api_key=os.environ.get("TRIGEN_API_KEY", "none"))
print("models:", [model.id for model in client.models.list()])

completion = client.completions.create(model="llm", prompt="The light", max_tokens=20, n=2, seed=7)
for choice in completion.choices:
    print("completion:", choice.text)

for chunk in client.completions.create(model="rnn", prompt="The light", max_tokens=20, stream=True):
    print(chunk.choices[0].text, end="")
print()

# The log-probability of each word of the prompt. `logprobs.top_logprobs` also has the most probable alternatives.
completion = client.completions.create(model="bigram", prompt="The light of the sea", max_tokens=0, echo=True, logprobs=1)
logprobs = completion.choices[0].logprobs
assert logprobs is not None
print("log-probabilities:", list(zip(logprobs.tokens or [], logprobs.token_logprobs or [], strict=True)))

try:
    client.completions.create(model="llm", prompt="The", temperature=3)
except openai.BadRequestError as error:
    print("error:", error.status_code, error.param, error.request_id, error)
