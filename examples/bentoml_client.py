"""Call the service with BentoML's client, which reads the routes from the service: python examples/bentoml_client.py [URL]"""

import os
import sys

import bentoml

URL = sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:3000"
PASSAGE = "From 1889 to 1921 the light was kept by Anna Berg."

with bentoml.SyncHTTPClient(URL, token=os.environ.get("TRIGEN_API_KEY")) as client:
    print("text:", client.generate_text(start_word="The", length=20)["generated_text"])
    print("answer:", client.answer_question(question="Who kept the light?", context=PASSAGE)["answer"])
    print("completion:", client.create_completion(model="rnn", prompt="The", max_tokens=8)["choices"][0]["text"])
    try:
        client.generate_text(start_word="The", length=0)
    except bentoml.exceptions.BentoMLException as error:
        print("problem:", int(error.error_code), error)
