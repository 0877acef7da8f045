# The commands that people and CI both run. `make help` lists them.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 3000
BASE_IMAGE ?=
IMAGE ?= trigen:latest
TRAIN ?=
BENCH ?=
RUN ?= runs/quickstart
CONTAINER ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench
PEERS := $(VENV)-peers/.installed
VLLM := $(VENV)-vllm/.installed
CLIENTS := $(VENV)-clients/.installed
CONTRACT := $(VENV)-contract/.installed
SOURCES := train.py service.py models training serving benchmarks tests examples clients/streaming.py

export BENTOML_DO_NOT_TRACK ?= True

.DEFAULT_GOAL := help
.PHONY: help serve train test test-slow bench-train bench-baselines bench-serve report lint types image format openapi client client-python \
	client-typescript

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(INSTALLED) ## serve on HOST:PORT (127.0.0.1:3000); trains the quickstart first if the store has no models
	@$(BIN)/python -m models.store || { echo "training the quickstart first: once, about eight minutes on two cores"; $(BIN)/python train.py --preset quickstart --output-dir runs/quickstart --resume; }
	$(BIN)/bentoml serve --host $(HOST) --port $(PORT)

train: $(INSTALLED) ## the mission: GPT-2 on SQuAD from the Hub (a GPU's work); TRAIN="--max-minutes 30 …" adds flags
	$(BIN)/python train.py $(TRAIN)

test: $(INSTALLED_DEV) lint types client-python ## lint, types and tests
	$(BIN)/pytest -q

test-slow: $(INSTALLED_DEV) $(CONTRACT) client-python ## the tests that need minutes, real weights or a container engine (BASE_IMAGE= as for `make image`)
	BASE_IMAGE=$(BASE_IMAGE) $(BIN)/pytest -q -m slow

bench-train: $(INSTALLED_BENCH) ## fine-tuning against TRL and the plain loop, ten minutes; BENCH="--base-model … --dataset …" takes others
	$(BIN)/python -m benchmarks.train $(BENCH)

bench-baselines: $(INSTALLED_BENCH) ## the word models against markovify, nltk and a plain nn.LSTM; BENCH="--dataset …" takes another text
	$(BIN)/python -m benchmarks.baselines $(BENCH)

bench-serve: $(INSTALLED_BENCH) $(PEERS) $(VLLM) ## the service against transformers serve, LitServe and vLLM over HTTP, 25 minutes
	$(BIN)/python -m benchmarks.serve $(BENCH)

openapi: $(INSTALLED) ## rewrite docs/openapi.json, which a test compares with what is served
	$(BIN)/python -m serving.openapi > docs/openapi.json.new
	@mv docs/openapi.json.new docs/openapi.json

client: client-python client-typescript ## generate the clients from docs/openapi.json into clients/

client-python: $(CLIENTS)
	@rm -rf clients/python
	PATH="$(abspath $(dir $(CLIENTS))bin):$$PATH" openapi-python-client generate --path docs/openapi.json --config clients/python.yaml --output-path clients/python
	@cp clients/streaming.py clients/python/trigen_client/

client-typescript:
	cd clients/typescript && npm install --no-audit --no-fund && npm run generate && npm run check

report: $(INSTALLED) ## compare the models of the run in RUN= (runs/quickstart) on the same held-out text, once more
	$(BIN)/python -m training.comparison $(RUN)

lint: $(INSTALLED_DEV) ## ruff
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(INSTALLED_DEV) ## mypy
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## rewrite the sources as ruff formats them
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

image: $(INSTALLED) ## build the Bento and its image IMAGE with docker or podman; BASE_IMAGE= takes another base image
	@$(BIN)/python -m models.store
	@mkdir -p build
	@{ cat bentofile.yaml; $(if $(BASE_IMAGE),printf 'docker:\n  base_image: "$(BASE_IMAGE)"\n';) } > build/bentofile.yaml
	$(BIN)/bentoml build --bentofile build/bentofile.yaml
	$(BIN)/bentoml containerize trigen:latest --backend $(CONTAINER) --image-tag $(IMAGE) $(CONTAINERIZE)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Trigen needs Python 3.11 or newer: say which, as in make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)

$(INSTALLED): requirements.txt constraints.txt serving/requirements.txt | $(VENV)/bin/python
	$(BIN)/pip install --disable-pip-version-check -r requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check -r requirements-dev.txt
	@touch $@

$(INSTALLED_BENCH): benchmarks/requirements.txt $(INSTALLED)
	$(BIN)/pip install --disable-pip-version-check -r benchmarks/requirements.txt
	@touch $@

$(CLIENTS): clients/requirements.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check -r $<
	@touch $@

$(CONTRACT): clients/requirements-contract.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check -r $<
	@touch $@

$(PEERS): benchmarks/serving/requirements-peers.txt
	$(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install --disable-pip-version-check -r $<
	@touch $@

# vLLM imports torchvision, torchaudio and torchcodec where they are there, and fails with those that its own torch does not fit. Where there is no
# wheel for the machine the benchmark goes without.
$(VLLM): benchmarks/serving/requirements-vllm.txt
	$(PYTHON) -m venv $(@D)
	-$(@D)/bin/pip install --disable-pip-version-check -r $< && $(@D)/bin/pip uninstall -y torchvision torchaudio torchcodec
	@touch $@
