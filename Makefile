# demo · test-fast · test · coverage · test-all · test-browser · test-shells · test-cluster · test-places · soak · bench · bench-handwriting · check · fmt · docs · clean: all commands.
PYTHON ?= python3
BIN := .venv/bin
APT := apt-get -qq -o Acquire::Retries=3
# One BLAS thread per process, as everywhere: see docs/exactness.md.
export OMP_NUM_THREADS := 1

.PHONY: demo test-fast test coverage test-all test-browser test-shells test-cluster test-places soak bench bench-handwriting check fmt docs clean

# Another command has installed more than the demo needs, or the demo installs only that.
demo: $(firstword $(wildcard .venv/installed) .venv/demo)  ## the whole pipeline on the built-in sample, offline
	$(BIN)/nanograd demo

# Tests that start no Ray, no browser and no other host.
FAST := tests nanograd $(addprefix --ignore=tests/,browser distributed docs e2e hosts places)

test-fast: .venv/installed  ## the tests that need no Ray: about a minute on 2 cores
	$(BIN)/pytest -n 2 --dist loadscope $(FAST) -m 'not slow and not soak and not long'

coverage: .venv/installed  ## the branches that tests without Ray cover, and the floor of each package
	$(BIN)/pytest -n 2 --dist loadscope $(FAST) --cov=nanograd --cov-branch --cov-report=json:build/coverage.json
	$(BIN)/python -m scripts.coverage_floors build/coverage.json

# Three processes for two cores, because tests of Ray and of stores wait for much of their time.
test: .venv/installed  ## the tests that `make check` does not run, without the slow ones
	$(BIN)/pytest -n 3 --dist loadscope tests --ignore=tests/docs

test-all: .venv/installed  ## the tests, slow ones included
	$(BIN)/pytest -m 'not soak and not hosts and not places'

test-browser: .venv/installed  ## the report in Debian's Chromium, installed if necessary
	command -v chromium >/dev/null || { $(APT) update && $(APT) install -y --no-install-recommends chromium; }
	$(BIN)/pytest tests/browser

test-shells: .venv/installed  ## completion in bash, zsh and fish, installed on Debian if necessary
	which bash zsh fish >/dev/null || { $(APT) update && $(APT) install -y --no-install-recommends zsh fish; }
	$(BIN)/pytest tests/docs/test_completion.py

test-cluster: .venv/installed  ## three hosts as network namespaces, and an object store; needs root; installs their requirements on Debian
	@test "$$(id -u)" != 0 || ! command -v apt-get >/dev/null \
	  || which sshd rsync nft tc memcached swift-object-server >/dev/null \
	  || { $(APT) update && $(APT) install -y --no-install-recommends openssh-server openssh-client rsync iproute2 nftables util-linux \
	  memcached swift-account swift-container swift-object swift-proxy; }
	$(BIN)/pytest -n 2 --dist loadscope -m 'hosts and not soak' tests/hosts tests/e2e

test-places: .venv/installed  ## machines with limits, other Pythons and versions; needs root and the package index
	$(BIN)/pytest -m places tests/places

soak: .venv/installed  ## two hundred kills in one run; 10,000 changes of membership; ten minutes of damaged pictures
	$(BIN)/pytest -m soak

bench: .venv/installed  ## compare with the peers, installed if necessary; DATA=FOLDER of MNIST
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/run.py --data $(or $(DATA),auto)

bench-handwriting: .venv/installed  ## accuracy and speed on pictures; PICTURES=FOLDER, DATA=FOLDER of MNIST
	$(BIN)/python benchmarks/run.py --only handwriting --data $(or $(DATA),auto) --pictures $(PICTURES)

check: .venv/installed  ## lint, format, spelling, types, import contracts, doctests, README
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/codespell
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/pytest -q -n 2 --dist loadscope nanograd tests/docs

fmt: .venv/installed
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: .venv/installed  ## regenerate what pages take from the code, run the notebooks, build the site
	$(BIN)/python scripts/write_pages.py
	$(BIN)/python scripts/run_notebook.py
	$(BIN)/sphinx-build -E -W --keep-going -q -c docs . build/site
	@echo "open build/site/index.html"

clean:
	rm -rf .venv demo

.venv/installed: EXTRAS := [dev]
.venv/demo .venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "nanograd needs Python 3.11 or newer; select it: make PYTHON=/path/to/python3"; exit 1; }
	@$(PYTHON) -m venv .venv || { $(PYTHON) -m venv --without-pip .venv \
	  && $(PYTHON) -m pip --python .venv/bin/python install -q pip; } \
	  || { echo "$(PYTHON) cannot create virtual environments; on Debian: apt-get install python3-venv"; exit 1; }
	$(BIN)/pip install -q --disable-pip-version-check -c constraints.txt -e '.$(EXTRAS)'
	@touch $@
