# From an empty environment: `make demo`, `make test`. Needs Python, make and g++ only.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin

CPP := $(shell find csrc tests -name '*.h' -o -name '*.cpp')
BUILD_FILES := pyproject.toml setup.py $(shell find csrc -type f)
PACKAGE_FILES := $(BUILD_FILES) $(shell find evokern -name '*.py')

# A source tree on PYTHONPATH would shadow the installed package.
unexport PYTHONPATH

.PHONY: demo test data lint format sanitize emulate bench doctor clean
.NOTPARALLEL:

demo: $(VENV)/.package
	$(BIN)/evokern ea mnist --preset quick

data: $(VENV)/.package
	$(BIN)/python -m evokern.problems.datasets

doctor: $(VENV)/.package
	$(BIN)/evokern doctor $(ARGS)

ifeq ($(EXTRAS),1)
test: export EVOKERN_REQUIRE_EXTRAS = 1
test: $(VENV)/.extras
else
test: $(VENV)/.dev
endif
	$(BIN)/python -m pytest $(ARGS)

bench: $(VENV)/.dev
	$(BIN)/evokern bench $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# The C++ tests run inside tests/, so that they import the installed package. The sanitizers write
# to the stderr of the process, which pytest must leave alone.
TEST_CPP = -m pytest --capture=sys -m "cpp and not slow" $(ARGS)

sanitize: .venv-sanitize/.installed
	cd tests && \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	../.venv-sanitize/bin/python $(TEST_CPP)

emulate: .venv-emulate/.installed
	cd tests && EVOKERN_ISA=avx512 ../.venv-emulate/bin/python $(TEST_CPP)
	cd tests && EVOKERN_ISA=avx512_bf16 ../.venv-emulate/bin/python $(TEST_CPP)

clean:
	rm -rf $(VENV) .venv-ci .venv-sanitize .venv-emulate build dist evokern.egg-info
	rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache evokern/_cpu*.so
	find evokern tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: one per set of extras. The package is editable, so only these files call for a new build.
$(VENV)/.package: $(BUILD_FILES) | $(BIN)/python
	$(BIN)/pip install -e .
	touch $@

$(VENV)/.dev: $(BUILD_FILES) constraints.txt | $(BIN)/python
	$(BIN)/pip install -e '.[dev]' -c constraints.txt
	touch $@ $(VENV)/.package

$(VENV)/.extras: $(BUILD_FILES) constraints.txt | $(BIN)/python
	$(BIN)/pip install -e '.[dev,torch,onnx,data,tensorboard]' -c constraints.txt
	touch $@ $(VENV)/.dev $(VENV)/.package

# Not editable: these builds must not replace the module in the source tree.
.venv-sanitize/.installed: export EVOKERN_SANITIZE = 1
.venv-emulate/.installed: export EVOKERN_EMULATE_AVX512 = 1
.venv-emulate/.installed: | simde
.venv-sanitize/.installed .venv-emulate/.installed: .venv-%/.installed: \
		$(PACKAGE_FILES) constraints.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	rm -rf build/$*/lib*
	$(@D)/bin/pip install '.[dev]' -c constraints.txt
	cd tests && ../$(@D)/bin/python -c \
	'import importlib.util as u, sys; s = u.find_spec("evokern"); assert sys.prefix in s.origin, s'
	touch $@

.PHONY: simde
simde:
	@echo '#include <simde/x86/avx512.h>' | $(CXX) -E -x c++ - >/dev/null 2>&1 || \
	{ echo 'make emulate needs the SIMDe headers: apt-get install libsimde-dev' >&2; exit 1; }
