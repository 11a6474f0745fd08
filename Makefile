# `make demo` and `make test` are all the set-up there is: each makes the environment it needs first.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
CORES  ?= $(shell nproc 2>/dev/null || echo 2)

export OMP_NUM_THREADS ?= 1
# Containers often set it; every process that a test starts would compile all modules anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test faults cuda quick lint types layers bench room claims clean

$(VENV)/.installed: pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --editable .
	touch $@

$(VENV)/.test-installed: $(VENV)/.installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

# Which of three methods names the rare classes of long-tailed images? On the images in the package, in a few minutes.
demo: $(VENV)/.installed
	$(BIN)/counterpoise compare --task classify --data fashion-mnist --imperfect long-tail=100 \
	  --methods cross-entropy,logit-adjusted,ldr --size 16 --steps 1000 --batch-size 128 --precision auto \
	  --seeds 3 --jobs $(CORES) --out counterpoise-out/demo

# Every check. What has to be left out because a system package is missing is said at the end (pytest -ra).
test: $(VENV)/.test-installed lint types layers
	@command -v chromium >/dev/null || echo "LEFT OUT: the browser tests, since Debian's chromium is not installed"
	$(BIN)/pytest -n $(CORES)

# What is left out of `make test` for its time: dozens of kills at random moments, full and read-only disks, damaged
# files, thousands of generated inputs. Some need to mount a small disk, which they do in a namespace of their own.
faults: $(VENV)/.test-installed
	$(BIN)/pytest -n $(CORES) -m 'faults or not faults' -s tests/faults

# The same on an accelerator: every objective, method, task and measure. Needs a machine with CUDA.
cuda: $(VENV)/.test-installed
	$(BIN)/pytest -m cuda tests

# The checks without the slow ones: under 3 minutes on 2 cores.
quick: $(VENV)/.test-installed lint
	$(BIN)/pytest -n $(CORES) -m 'not slow and not browser and not faults and not cuda'

lint: $(VENV)/.test-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.test-installed
	$(BIN)/mypy

layers: $(VENV)/.test-installed
	$(BIN)/lint-imports

# Every benchmark, one after the other; each writes docs/results/NAME.{md,json} and fails where it misses its target.
# Quote a figure only where nothing else ran beside it. About three quarters of an hour on 2 cores, and 20 GB of memory.
bench: $(VENV)/.test-installed
	$(BIN)/pip install --quiet --editable '.[bench]'
	@failed=; for name in similarity objectives views train glyphs scenes ap_pool ldr tfup wad flowaug \
	  rcal naive_bayes_probe normalized_lr_gd pgd survival gallery; do \
	  OMP_NUM_THREADS=2 $(BIN)/python -m benchmarks.$$name || failed="$$failed $$name"; done; \
	test -z "$$failed" || { echo "missed a target:$$failed"; exit 1; }

# A room's methods on three sets: docs/results/ROOM.{md,json,png}. contrast takes about an hour on 2 cores, retrieve and
# regress some 40 minutes each.
ROOM ?= contrast
room: $(VENV)/.test-installed
	$(BIN)/python -m benchmarks.$(ROOM)

# Runs every declared claim again (some four hours on 2 cores) and writes the ledger's page.
claims: $(VENV)/.installed
	$(BIN)/counterpoise claim --all --jobs $(CORES)
	$(BIN)/counterpoise claim --all --report

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache counterpoise-out
