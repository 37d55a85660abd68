# Every habit of this repository is one of these words; CI calls the same ones.
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))
SITE = $(shell $(PYTHON) -c 'import google.rpc.status_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])')
PROTOS = $(shell find protos -name '*.proto' | sort)
GENERATED := libs/protos
BUILD := build
SHELL := /bin/bash

.PHONY: help setup lock gen proto-lint breaking lint format types test test-crash test-audit-crash \
  test-audit-tamper test-audit-outage test-scheduler test-triton bench bench-audit bench-models \
  tiny-model tiny-vision-model run ci clean

help:  ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 16

setup:  ## the environment, from the lock
	./moltbot --setup-dev

lock:  ## the lock files, from pyproject.toml (needs uv)
	for extra in "" dev; do echo 'hatchling>=1.27' | uv pip compile --quiet --generate-hashes --no-header \
	  --python-version 3.11 --python-platform x86_64-manylinux_2_31 $${extra:+--extra $$extra} \
	  pyproject.toml - -o requirements$${extra:+-$$extra}.lock || exit; done

gen: setup  ## generated code and the descriptor set, from protos/
	find $(GENERATED) -type f \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' -o -name '*.binpb' \) -delete
	$(PYTHON) -m grpc_tools.protoc -I protos -I $(SITE) \
	  --plugin=protoc-gen-mypy=$(BIN)protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)protoc-gen-mypy_grpc \
	  --python_out=$(GENERATED) --grpc_python_out=$(GENERATED) --mypy_out=$(GENERATED) --mypy_grpc_out=$(GENERATED) \
	  $(PROTOS)
	find $(GENERATED) -name '*_pb2_grpc.py*' -size -1200c -exec grep -L '^class ' {} + | xargs -r rm -f
	$(PYTHON) -m grpc_tools.protoc -I protos -I $(SITE) --include_imports \
	  --descriptor_set_out=$(GENERATED)/moltbot/descriptor_set.binpb \
	  $(filter-out protos/moltbot/third_party/%,$(PROTOS)) google/rpc/error_details.proto google/rpc/status.proto

$(BUILD)/googleapis: requirements-dev.lock | setup
	mkdir -p $@/google/api $@/google/rpc
	cp $(SITE)/google/api/{annotations,http,httpbody,field_behavior}.proto $@/google/api/
	cp $(SITE)/google/rpc/{status,error_details}.proto $@/google/rpc/
	touch $@

proto-lint: setup $(BUILD)/googleapis
	$(BIN)buf format protos --diff --exit-code
	$(BIN)buf lint

AGAINST ?= main
breaking: setup $(BUILD)/googleapis  ## protos beside those of AGAINST (main), a branch or a tag
	rm -rf $(BUILD)/against
	mkdir -p $(BUILD)/against/build
	git archive $(AGAINST) protos buf.yaml | tar x -C $(BUILD)/against
	cp -r $(BUILD)/googleapis $(BUILD)/against/build/
	$(BIN)buf breaking --against $(BUILD)/against
	rm -rf $(BUILD)/against

lint: setup proto-lint  ## style, imports, protos
	$(BIN)ruff check
	$(BIN)ruff format --check
	$(BIN)lint-imports

format: setup  ## mend what a tool can mend
	$(BIN)ruff check --fix
	$(BIN)ruff format
	$(BIN)buf format protos --write

types: setup  ## pyright, strict
	$(BIN)pyright

test: setup  ## everything, on real parts
	$(PYTHON) -m pytest $(ARGS)

test-crash: setup  ## the daemon killed under load, 50 times
	MOLTBOT_CRASH_KILLS=50 $(PYTHON) -m pytest tests/e2e/test_crash.py $(ARGS)

test-audit-crash: setup  ## the audit log killed 1,000 times, as often again on a disk that fails, and its producer
	$(PYTHON) tests/integration/test_audit_crash.py 1000

test-audit-outage: setup  ## the audit service away for a minute under load, killed and stopped, and spills filled to their limit
	MOLTBOT_AUDIT_OUTAGE_S=60 $(PYTHON) -m pytest tests/e2e/test_audit_outage.py -s $(ARGS)

test-audit-tamper: setup  ## every kind of change to an audit log, at 100 places each
	$(PYTHON) tests/unit/moltbot_audit/test_tampering.py 100

test-scheduler: setup  ## 10,000 random runs of the engine's scheduler
	MOLTBOT_SCHEDULER_RUNS=10000 $(PYTHON) -m pytest tests/unit/moltbot_models/engine/test_blocks_and_scheduler.py --timeout 3600 $(ARGS)

test-triton: setup  ## Triton killed under 32 streams, 50 times
	MOLTBOT_TRITON_KILLS=50 $(PYTHON) -m pytest tests/integration/test_triton_kills.py --timeout 3600 $(ARGS)

bench: setup  ## CPU a request and a chunk beside a bare pass-through; start; memory
	$(PYTHON) benchmarks/gateway.py $(ARGS)

bench-audit: setup  ## the log beside raw fsync and SQLite
	$(PYTHON) benchmarks/audit.py $(ARGS)

bench-models: setup  ## engines, encoders and models beside their baselines
	$(PYTHON) benchmarks/models.py $(ARGS)

TINY = $(BUILD)/tiny
tiny-model: setup  ## trains a model like the shipped one into build/tiny (75 minutes of one thread)
	python3 -m venv $(TINY)-venv
	$(TINY)-venv/bin/pip install --quiet -r recipes/tiny_model/requirements.txt
	$(TINY)-venv/bin/python recipes/tiny_model/train.py --out $(TINY) --minutes 75 --threads 1 --compile
	$(PYTHON) recipes/tiny_model/evaluate.py $(TINY) --count 100

VISION = $(BUILD)/tiny_vision
tiny-vision-model: setup  ## trains the shipped vision model anew into build/tiny_vision (6 minutes of one thread)
	python3 -m venv $(VISION)-venv
	$(VISION)-venv/bin/pip install --quiet -r recipes/tiny_vision/requirements.txt
	$(VISION)-venv/bin/python recipes/tiny_vision/train.py --out $(VISION) --minutes 6 --threads 1
	$(PYTHON) recipes/tiny_vision/evaluate.py $(VISION) --count 100

run:  ## the daemon
	./moltbot daemon $(ARGS)

ci: lint  ## what must pass before anything is merged
	$(MAKE) gen
	@git diff --exit-code -- $(GENERATED) && test -z "$$(git status --porcelain -- $(GENERATED))" || \
	  { echo 'generated code differs from protos/: run `make gen` and commit'; exit 1; }
	$(MAKE) types
	$(MAKE) test

clean:  ## what can be made again
	rm -rf $(BUILD) .pytest_cache .ruff_cache .hypothesis .import_linter_cache
