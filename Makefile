# From an empty environment: `make demo`, `make test`. Needs Python, make and g++ only.

PYTHON ?= python3
VENV ?= .venv
ARGS ?=
BIN = $(VENV)/bin

CPP := $(shell find csrc tests examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
BUILD_FILES := pyproject.toml setup.py $(shell find csrc -type f)
PACKAGE_FILES := $(BUILD_FILES) $(shell find evokern -name '*.py')

# A source tree on PYTHONPATH would shadow the installed package.
unexport PYTHONPATH

.PHONY: demo test data lint format sanitize emulate bench doctor custom-op clean
.PHONY: simt-asan simt-race simt-reverse cuda-toolchain cuda-module inspect gpu
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

# examples/custom_op as its users install it.
custom-op: export EVOKERN_CUSTOM_OP = installed
custom-op: $(VENV)/.dev
	$(BIN)/pip install --no-build-isolation --no-deps ./examples/custom_op
	$(BIN)/python -m pytest tests/test_custom_op.py $(ARGS)

# The C++ tests run inside tests/, so that they import the installed package. The sanitizers write
# to the stderr of the process, which pytest must leave alone.
TEST_CPP = -m pytest --capture=sys -m "cpp and not slow" $(ARGS)

sanitize: export EVOKERN_SIMT = 0
sanitize: .venv-sanitize/.installed
	cd tests && \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	../.venv-sanitize/bin/python $(TEST_CPP)

emulate: export EVOKERN_SIMT = 0
emulate: .venv-emulate/.installed
	cd tests && EVOKERN_ISA=avx512 ../.venv-emulate/bin/python $(TEST_CPP)
	cd tests && EVOKERN_ISA=avx512_bf16 ../.venv-emulate/bin/python $(TEST_CPP)

# The CUDA kernels on the harness, in other builds and other orders of the threads.
TEST_SIMT = -m pytest --capture=sys -m "simt and not slow" $(ARGS)

simt-asan: export EVOKERN_SIMT_VARIANT = asan
simt-asan: $(VENV)/.dev
	cd tests && \
	LD_PRELOAD="$$($(CXX) -print-file-name=libasan.so) $$($(CXX) -print-file-name=libubsan.so)" \
	ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 UBSAN_OPTIONS=print_stacktrace=1 \
	../$(BIN)/python $(TEST_SIMT)

simt-race: export EVOKERN_SIMT_VARIANT = race
simt-race: $(VENV)/.dev
	cd tests && ../$(BIN)/python $(TEST_SIMT)
	cd tests && EVOKERN_SIMT_ORDER=random:1 ../$(BIN)/python $(TEST_SIMT)

simt-reverse: export EVOKERN_SIMT_ORDER = reverse
simt-reverse: $(VENV)/.dev
	cd tests && ../$(BIN)/python $(TEST_SIMT)

cuda-toolchain: .venv-cuda/.installed

# evokern._cuda beside evokern._cpu, for one architecture.
cuda-module: export EVOKERN_CUDA = 1
cuda-module: export EVOKERN_ARCHS = 80
cuda-module: .venv-cuda/.installed $(VENV)/.dev
	$(BIN)/pip install --no-deps -e .
	$(BIN)/python -m pytest tests/test_cuda_module.py

# Nothing of it needs a GPU or a driver.
inspect: .venv-cuda/.installed $(VENV)/.dev
	.venv-cuda/bin/python tests/inspect $(ARGS)
	$(BIN)/python tests/inspect/triton_kernels.py $(ARGS)

# On a machine with a GPU: parity, a run, compute-sanitizer, timings, in 20 minutes.
gpu: $(VENV)/.extras
	$(BIN)/python -m benchmarks.gpu $(ARGS)

clean:
	rm -rf $(VENV) .venv-ci .venv-sanitize .venv-emulate .venv-cuda build dist evokern.egg-info
	rm -rf examples/custom_op/build examples/custom_op/*.egg-info
	rm -rf .benchmarks .hypothesis .mypy_cache .pytest_cache .ruff_cache evokern/_c*.so
	find evokern tests -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Stamps: one per set of extras. The package is editable, so only these files call for a new build.
$(VENV)/.package: $(BUILD_FILES) | $(BIN)/python
	$(BIN)/pip install -e .
	touch $@

$(VENV)/.dev: $(BUILD_FILES) constraints.txt | $(BIN)/python
	$(BIN)/pip install -e '.[dev,triton]' -c constraints.txt
	touch $@ $(VENV)/.package

$(VENV)/.extras: $(BUILD_FILES) constraints.txt | $(BIN)/python
	$(BIN)/pip install -e '.[dev,triton,torch,onnx,data,tensorboard]' -c constraints.txt
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

.venv-cuda/.installed: csrc/cuda/toolchain.txt
	test -x $(@D)/bin/python || $(PYTHON) -m venv $(@D)
	$(@D)/bin/pip install -r $<
	touch $@

.PHONY: simde
simde:
	@echo '#include <simde/x86/avx512.h>' | $(CXX) -E -x c++ - >/dev/null 2>&1 || \
	{ echo 'make emulate needs the SIMDe headers: apt-get install libsimde-dev' >&2; exit 1; }
