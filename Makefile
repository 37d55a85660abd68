# Every habit of this repository is one of these words; CI calls the same ones.
PYTHON ?= .venv/bin/python
BIN := $(dir $(PYTHON))
SITE = $(shell $(PYTHON) -c 'import google.rpc.status_pb2 as m, pathlib; print(pathlib.Path(m.__file__).parents[2])')
PROTOS = $(shell find protos -name '*.proto' | sort)
GENERATED := libs/protos
BUILD := build
SHELL := /bin/bash

.PHONY: setup gen proto-lint lint format types test bench run ci clean

setup:  ## the environment from the lock
	./moltbot --setup-dev

gen:  ## generated code and the descriptor set, from protos/
	find $(GENERATED) -type f \( -name '*_pb2*.py' -o -name '*_pb2*.pyi' -o -name '*.binpb' \) -delete
	$(PYTHON) -m grpc_tools.protoc -I protos -I $(SITE) \
	  --plugin=protoc-gen-mypy=$(BIN)protoc-gen-mypy --plugin=protoc-gen-mypy_grpc=$(BIN)protoc-gen-mypy_grpc \
	  --python_out=$(GENERATED) --grpc_python_out=$(GENERATED) --mypy_out=$(GENERATED) --mypy_grpc_out=$(GENERATED) \
	  $(PROTOS)
	find $(GENERATED) -name '*_pb2_grpc.py*' -size -1200c -exec grep -L '^class ' {} + | xargs -r rm -f
	$(PYTHON) -m grpc_tools.protoc -I protos -I $(SITE) --include_imports \
	  --descriptor_set_out=$(GENERATED)/moltbot/descriptor_set.binpb \
	  $(filter-out protos/moltbot/third_party/%,$(PROTOS)) google/rpc/error_details.proto google/rpc/status.proto

$(BUILD)/googleapis: $(SITE)/google/api/annotations.proto
	mkdir -p $@/google/api $@/google/rpc
	cp $(SITE)/google/api/{annotations,http,httpbody,field_behavior}.proto $@/google/api/
	cp $(SITE)/google/rpc/{status,error_details}.proto $@/google/rpc/
	touch $@

proto-lint: $(BUILD)/googleapis
	$(BIN)buf format protos --diff --exit-code
	$(BIN)buf lint
