# Two commands: `make demo` and `make test`. Both need Python 3.11 or newer and make, nothing else.
#
#   make demo                        the generated phantom cohort, end to end
#   make demo RAW=path/to/hannover   the same on a download of the Hannover data set
#   make test                        lint, types and the whole test suite
#   make fast                        the quick part of the suite

PYTHON ?= python3
VENV ?= .venv
WORKSPACE ?= workspace
RAW ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUN := $(BIN)/peftbench
export PEFTBENCH_WORKSPACE := $(WORKSPACE)
# Tests start many processes: none should compile again what another one has.
unexport PYTHONDONTWRITEBYTECODE

ifeq ($(strip $(RAW)),)
COHORT := phantom
TASKS := PHA_icu PHA_icu_all
FROM :=
else
COHORT := hannover
TASKS := HAN_icu HAN_icu_prospective HAN_icu_all HAN_m_all
FROM := --raw "$(RAW)"
endif
BACKBONES := --backbone efficientnet-lite0 --backbone resnet18@random:0

.PHONY: demo test fast lint clean

demo: $(VENV)/.models
	$(RUN) prepare $(COHORT) $(FROM)
	$(RUN) extract $(COHORT) $(BACKBONES)
	$(RUN) probe $(TASKS) $(BACKBONES)
	$(RUN) report

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n auto

fast: $(VENV)/.dev
	$(BIN)/python -m pytest -n auto -m "not slow"

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache

# A stamp rather than the interpreter: an environment that was cut short has one, and no pip.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "peftbench needs Python 3.11 or newer, this is %s; name another with PYTHON=..." % sys.version.split()[0])'
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch comes first and alone: with everything else in one call pip weighs far more versions.
$(VENV)/.models: pyproject.toml constraints.txt | $(VENV)/.created
	@echo "installing peftbench with its models into $(VENV); the first time this takes some minutes"
	$(PIP) torch torchvision
	$(PIP) -e '.[models,offline]'
	@touch $@

$(VENV)/.dev: $(VENV)/.models
	$(PIP) -e '.[dev]'
	@touch $@
