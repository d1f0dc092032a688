# Every target makes its own environment in .venv first. Nothing else on the machine is touched, but for the system
# libraries of `test` and `panel`, which apt installs where it may (see Testing/system_libraries.py).
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
HOST   := $(VENV)/.host-ready

.DEFAULT_GOAL := help
.PHONY: demo test panel lint libraries clean help

demo: $(READY)  ## segment a sample with a bundled model and write pictures and numbers to out/demo
	$(BIN)/atlas-istn demo --output out/demo

# Processes for each part: the engine's tests know no Slicer, the host's know its MRML, the panel's a whole stand-in. Two
# of them share a part, file by file, each on one core; without UTF-8 mode they read what programs say as ASCII.
test: $(HOST) libraries  ## run the tests, all of them also where some fail
	@status=0; for part in engine host panel; do \
	  echo "Testing/$$part"; OMP_NUM_THREADS=1 PYTHONUTF8=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile Testing/$$part; code=$$?; \
	  if [ $$status = 0 ]; then status=$$code; fi; \
	done; exit $$status

panel: $(HOST) libraries  ## drive the panel without Slicer and save pictures of it to out/panel
	$(BIN)/python Testing/make_panel.py --output out/panel

lint: $(READY)  ## check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

help:  ## show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 8

# constraints.txt holds torch to a tested release; an unconstrained torch may be several gigabytes of another one
$(READY): pyproject.toml constraints.txt
	@echo "Setting up $(VENV) (a few minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

$(HOST): $(READY)
	@echo "Adding Slicer's core, VTK and Qt for the panel's tests"
	@$(BIN)/python -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[dev,host]'
	@touch $@

# Looked for each time, which takes a moment: a kept .venv may come to a new machine. Where something is missing and
# cannot be installed it is named, and the tests go on as far as they can.
libraries: $(READY)
	@$(BIN)/python Testing/system_libraries.py --install || true
