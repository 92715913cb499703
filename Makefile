# Marpress. `make serve` runs the main job, `make test` the tests; both set everything up.
RECIPE ?= photos
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
BENCH := .venv-bench
PEERS := .venv-compress
SPEECH := asterisk-core-sounds-en asterisk-core-sounds-en-wav pocketsphinx-testdata
PROMPT := /usr/share/asterisk/sounds/en_US_f_Allison/hello-world.wav
WORDNET := /usr/share/wordnet/data.noun
FASHION := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

# pip takes torch beside other packages in any build: what exports add names it again.
TORCH := $(shell grep -E '^(torch|numpy)==' requirements.txt)
# Processes that tests run in; those of one file stay together and share its models and servers.
JOBS ?= 2
PYTEST := $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

FORMATS := onnx openvino coreml tflite savedmodel executorch aoti

.DEFAULT_GOAL := help
.PHONY: extras formats-table test-exports test-fast test-long help setup data data-speech data-embeddings artifact serve stop test check format clean docs docs-serve fuzz bench-flips bench-preprocess bench-speech bench-silence bench-serve bench-overload soak bench-embeddings bench-compress bench-accuracy-control bench-widths bench-expensive zoo figures lock audit

help:
	@echo "make serve [RECIPE=photos|fashion|speech|sentiment|embeddings|tensors]"
	@echo "                                    compress, archive, serve and ask a real question"
	@echo "     [ENGINES=onnx-int8,...]        the worker may serve these exports, if faster"
	@echo "make stop                           stop the server that make serve started"
	@echo "make test [JOBS=2]                  all tests, against a real TorchServe"
	@echo "make test-long                      those that take a minute each: kills, full disks"
	@echo "make test-fast                      those that train little and start no server"
	@echo "make extras-FORMAT                  what python -m optimize export needs for a format:"
	@echo "                                    $(FORMATS)"
	@echo "make extras                         all of them (4 GB on disk)"
	@echo "make test-exports                   all of them, then the exporters' tests"
	@echo "make check                          ruff and mypy"
	@echo "make fuzz [FUZZ=100000]             archives and folders changed at random, all refused"
	@echo "make bench-flips                    model_store/photos.mar, one byte flipped at a time"
	@echo "make bench-preprocess               image pre-processing against Pillow"
	@echo "make bench-speech                   speech against faster-whisper and the original"
	@echo "make bench-silence                  what speech recognition says about music and noise"
	@echo "make bench-embeddings               texts to vectors, against ONNX Runtime and another"
	@echo "make bench-serve                    our servers against seven others"
	@echo "make bench-overload                 our servers at three times what they can take"
	@echo "make soak                           half an hour at 80 % load: memory, errors"
	@echo "make bench-compress [QUICK=1]       compressed models against six other engines"
	@echo "make bench-accuracy-control         an accuracy budget, ours beside NNCF's"
	@echo "make bench-expensive                time and memory of the dearest requests"
	@echo "make bench-widths                   which channel counts int8 kernels like"
	@echo "make zoo                            torch's layers and timm's models through the stages"
	@echo "make figures                        tables and picture of README and docs/figures.md"
	@echo "make docs                           these pages as a site, in site/"
	@echo "make docs-serve                     the same at http://127.0.0.1:8000, while you edit"
	@echo "make lock                           hashes of what requirements*.txt ask for"
	@echo "make audit                          known vulnerabilities of the locked packages"
	@echo "make clean                          remove artifacts, archives and logs"

setup: $(VENV)/.installed

# All packages; what a first `make serve` needs of them comes first and alone.
$(VENV)/.installed: $(VENV)/.first $(wildcard locks/*)
	@locks/install.sh $(VENV) all
	@touch $@

$(VENV)/.first: $(wildcard locks/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12), (3, 13)))' \
	  || { echo "Python 3.11 is needed; say which: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	@locks/install.sh $(VENV) first
	@$(BIN)/python -m deploy java link >/dev/null
	@touch $@

# After a change of requirements*.txt.
lock:
	@locks/lock.sh

# Known vulnerabilities of what is installed; asks PyPI, so it needs the network.
audit: setup
	@test -x $(VENV)-lock/bin/pip-audit || { $(PYTHON) -m venv $(VENV)-lock; \
	  $(VENV)-lock/bin/pip install --quiet pip-audit==2.10.1; }
	@$(VENV)-lock/bin/pip-audit --disable-pip --no-deps -r locks/packages.txt -r locks/data.txt

# Fashion-MNIST comes as a Debian package; without it the recipe downloads it or falls back.
data:
	@if [ ! -f $(FASHION) ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing the Debian package dataset-fashion-mnist (30 MB) with apt-get"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install -y --no-install-recommends dataset-fashion-mnist; } >/dev/null 2>&1 \
	  || echo "apt-get failed: going on without it"; \
	fi

# Transcribed speech comes as Debian packages (28 MB) and from nowhere else.
data-speech:
	@if [ -f $(PROMPT) ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing the Debian packages $(SPEECH) with apt-get"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install -y --no-install-recommends $(SPEECH); } >/dev/null 2>&1 \
	  || echo "apt-get failed: going on without them"; \
	else \
	  echo "no transcribed speech here. As root: apt-get install $(SPEECH)"; \
	  echo "or name recordings of your own in recipes/speech.yaml (data: speech: {path: ...})"; \
	fi

# WordNet comes as a Debian package (3 MB).
data-embeddings:
	@if [ -f $(WORDNET) ]; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing the Debian package wordnet-base with apt-get"; \
	  { apt-get -qq update && DEBIAN_FRONTEND=noninteractive \
	    apt-get -qq install -y --no-install-recommends wordnet-base; } >/dev/null 2>&1 \
	  || echo "apt-get failed: going on without it"; \
	else \
	  echo "no WordNet here. As root: apt-get install wordnet-base"; \
	  echo "or name pairs of your own in recipes/embeddings.yaml (data: text_pairs: {path: ...})"; \
	fi

# The first recipe needs a part of the packages; its pictures come with them.
artifact: $(if $(filter photos,$(RECIPE)),$(VENV)/.first,setup data $(if $(filter speech embeddings,$(RECIPE)),data-$(RECIPE)))
	@$(BIN)/python -m optimize run recipes/$(RECIPE).yaml --resume

serve: artifact
	@$(BIN)/python -m deploy serve $(RECIPE) $(if $(ENGINES),--engines $(ENGINES))

stop:
	@test ! -x $(BIN)/python || $(BIN)/python -m deploy stop

test: setup data data-speech
	$(PYTEST) -m "not long"

test-long: setup data data-speech
	$(PYTEST) -m long

test-fast: setup data
	$(PYTEST) -m "not slow and not long"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# Packages that are there for their files alone lack what they ask for, and pip would name it after
# each installation. What any other package lacks is shown.
FOR_FILES = $(shell sed -n 's/==.*//p' requirements-data.txt | paste -sd'|' -)

# Versions are those of pyproject.toml; torch is named again so that pip keeps this build.
extras-%: setup
	@test ! -f $(VENV)/.extras-$* -o pyproject.toml -nt $(VENV)/.extras-$* || exit 0; \
	packages=$$($(BIN)/python -m optimize.export.extras $*) || exit 2; \
	test -z "$$packages" || { echo "installing for $*: $$packages"; \
	  $(BIN)/pip install --quiet --no-warn-conflicts $(TORCH) $$packages && { $(BIN)/pip check \
	  | grep -Ev '^($(FOR_FILES)) |^No broken requirements' >&2; true; }; } \
	&& touch $(VENV)/.extras-$*

extras: $(FORMATS:%=extras-%)

# The stub of TensorFlow Serving asks for a tensorflow of its own: we bring tensorflow-cpu.
test-exports: setup data extras
	@$(BIN)/pip install --quiet --no-deps tensorflow-serving-api==2.21.0
	@$(BIN)/pip install --quiet grpcio==1.85.1
	EXPORTS=1 $(PYTEST) -m "not long" tests/unit/optimize/export tests/integration/test_export.py

# The tables of formats in docs/figures.md, from the reports in artifacts/.
formats-table: setup
	@$(BIN)/python -m benchmarks.formats_table

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

FUZZ ?= 100000

fuzz: setup
	@FUZZ=$(FUZZ) $(BIN)/python -m pytest -q -s -p no:cacheprovider tests/unit/deploy/archive/test_fuzz.py

bench-flips: setup
	$(BIN)/python -m benchmarks.flips model_store/photos.mar

bench-preprocess: setup
	$(BIN)/python -m benchmarks.preprocess

# The peers live in an environment of their own that sees the packages of .venv.
$(BENCH)/.installed: $(VENV)/.installed requirements-bench.txt
	@test -x $(BENCH)/bin/python || $(PYTHON) -m venv $(BENCH)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > "$$($(BENCH)/bin/python -c 'import site; print(site.getsitepackages()[0])')/product.pth"
	@echo "installing the benchmarks' peers into $(BENCH) (0.6 GB on disk)"
	@$(BENCH)/bin/pip install --quiet -r requirements-bench.txt
	@touch $@

bench-silence: setup data-speech
	$(BIN)/python -m benchmarks.silence

bench-speech: $(BENCH)/.installed data-speech
	$(BENCH)/bin/python -m benchmarks.speech

$(PEERS)/.installed: $(VENV)/.installed requirements-compress.txt requirements-compress-data.txt
	@test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(BIN)/python -c 'import site; print(site.getsitepackages()[0])' \
	  > "$$($(PEERS)/bin/python -c 'import site; print(site.getsitepackages()[0])')/product.pth"
	@echo "installing the compression benchmark's peers into $(PEERS) (0.3 GB on disk)"
	@$(PEERS)/bin/pip install --quiet -r requirements-compress.txt
	@$(PEERS)/bin/pip install --quiet --no-deps -r requirements-compress-data.txt
	@touch $@

bench-compress: $(PEERS)/.installed
	$(PEERS)/bin/python -m benchmarks.compress $(if $(QUICK),--quick)

bench-accuracy-control: $(PEERS)/.installed data
	@$(BIN)/python -m optimize run recipes/fashion.yaml --resume
	$(PEERS)/bin/python -m benchmarks.accuracy_control --max-drop 0.002 --max-drop 0

# The dearest requests within the limits, on the artifacts that there are.
bench-expensive: setup
	$(BIN)/python -m benchmarks.expensive $(wildcard artifacts/photos artifacts/sentiment artifacts/speech)

bench-widths: setup
	$(BIN)/python -m benchmarks.widths

# 15 minutes; writes the tables of docs/zoo.md.
zoo: setup
	$(BIN)/python -m benchmarks.zoo

# Kinds whose artifact is there; e.g. make bench-serve BENCH_ARGS="--kinds images --quick".
bench-serve: $(BENCH)/.installed
	$(BIN)/python -m benchmarks.serve $(BENCH_ARGS)

# Three times the load that a server can take, and half an hour at 80 % of it.
bench-overload: setup
	$(BIN)/python -m benchmarks.serve.overload $(BENCH_ARGS)

soak: setup
	$(BIN)/python -m benchmarks.serve.soak $(BENCH_ARGS)

bench-embeddings: $(BENCH)/.installed data-embeddings
	@$(BIN)/python -m optimize run recipes/embeddings.yaml --resume
	$(BENCH)/bin/python -m benchmarks.embeddings

figures: setup
	$(BIN)/python -m benchmarks.figures

# The theme's makers announce its successor at every build: there is nothing to do about it here.
docs: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs --quiet build --strict
	@echo "open site/index.html in a browser"

docs-serve: setup
	@NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve

clean: stop
	rm -rf artifacts logs .run site model_store/*.mar
