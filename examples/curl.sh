#!/usr/bin/env bash
# Call every route with curl: examples/curl.sh [URL]
set -euo pipefail
URL=${1:-http://127.0.0.1:3000}

post() { curl -sS "$URL$1" -H 'Content-Type: application/json' ${TRIGEN_API_KEY:+-H "Authorization: Bearer $TRIGEN_API_KEY"} -d "$2" "${@:3}"; echo; }
get() { curl -sS "$URL$1" ${TRIGEN_API_KEY:+-H "Authorization: Bearer $TRIGEN_API_KEY"}; echo; }

post /generate_text '{"start_word": "The", "length": 20}'
post /generate_with_rnn '{"start_word": "The", "length": 20, "temperature": 0}'
post /generate_with_llm '{"start_word": "Who kept the light?", "context": "From 1889 to 1921 the light was kept by Anna Berg.", "length": 20}'
post /answer_question '{"question": "Who kept the light?", "context": "From 1889 to 1921 the light was kept by Anna Berg."}'
post /generate_text '{"start_word": "The", "length": 5, "stream": true}' -N
post /v1/completions '{"model": "llm", "prompt": ["The light", "A ship"], "max_tokens": 8, "echo": true, "logprobs": 1}'
post /v1/completions '{"model": "bigram", "prompt": "The", "stream": true, "stream_options": {"include_usage": true}}' -N
get /v1/models
get /v1/models/llm
get /info
post /generate_text '{"start_word": "The", "length": 0}' # returns a problem: status 422 and the invalid field
