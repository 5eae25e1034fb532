# Two commands: `make demo` shows the library at work, `make test` proves it. Both fill .venv with the versions of
# tests/constraints.txt, and again when that file or pyproject.toml changed.

VENV := .venv
CONSTRAINTS := tests/constraints.txt
BIN := $(VENV)/bin
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal

# uv where there is one (it also finds a Python that fits), else pip; PYTHON=... names the interpreter
ifneq ($(shell command -v uv 2>/dev/null),)
CREATE := uv venv --quiet --seed $(if $(PYTHON),--python $(PYTHON))
INSTALL := uv pip install --quiet --python $(BIN)/python
else
CREATE := $(or $(PYTHON),python3) -m venv
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
endif

.PHONY: demo test prove lint shell lock oldest clean

demo: $(VENV)/installed
	$(BIN)/rlhf train grpo --task pocket --output-dir $(RUN)

# all but the slow proofs
test: $(VENV)/installed
	$(PYTEST) -m "not slow"

prove: $(VENV)/installed
	$(PYTEST)

lint: $(VENV)/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

# a shell in which python, pytest and rlhf are those of .venv
shell: $(VENV)/installed
	@echo "leave with exit or Ctrl-D"
	@VIRTUAL_ENV="$(CURDIR)/$(VENV)" PATH="$(CURDIR)/$(BIN):$$PATH" $${SHELL:-sh}

# newest versions: tests/constraints.txt is written when everything passes on them; oldest: the lower bounds of pyproject.toml
lock: $(VENV)/installed
	$(BIN)/python tests/versions.py newest

oldest: $(VENV)/installed
	$(BIN)/python tests/versions.py oldest

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	test -x $(BIN)/python || $(CREATE) $(VENV)
	$(INSTALL) -c $(CONSTRAINTS) -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .hypothesis
