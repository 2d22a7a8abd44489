# Each target makes its own .venv first; everything works offline once installed, and twice in a row.
.RECIPEPREFIX := >
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo installed test lint bench sanitized sanitize native clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
NATIVE_SOURCES := setup.py pyproject.toml CMakeLists.txt $(shell find csrc -type f)
PACKAGE_SOURCES := $(shell find pyparallel -name '*.py' -o -name '*.pyi' -o -name VERSION)
CMAKE = $(abspath $(BIN))/cmake
# Where setup.py builds the core: the native tests link the very objects of the module.
MODULE_BUILD = build/cmake-$(shell $(BIN)/python -c 'import sys, sysconfig; print(sysconfig.get_platform(), sys.implementation.cache_tag + sys.abiflags, sep="-")')
# Most of these are of one process. The other tests, of ranks that wait for each other, need the cores for themselves: their
# lock keeps them and the compilation of the sanitized programs, which may have begun before, apart.
OF_ONE_PROCESS := tests/csrc tests/data tests/memory tests/monitor tests/optim $(wildcard tests/test_*.py)
CORES := build/.cores
SANITIZERS := address,undefined thread
SANITIZED := -DPYPARALLEL_MODULE=OFF -DPYPARALLEL_TESTS=ON -DPYPARALLEL_CUDA=0 -DCMAKE_BUILD_TYPE=None

help:
> @echo "make demo      train a language model on two processes, beside torch's own parts"
> @echo "make test      run the tests          make lint      run formatters and checkers"
> @echo "make bench     run the benchmarks     make sanitize  native tests under ASan, UBSan and TSan"

# Third-party packages: installed again only when the lists change.
$(VENV)/.dependencies: constraints.txt requirements-dev.txt
> @command -v $(PYTHON) >/dev/null || { echo "Python >= 3.11 is needed"; exit 1; }
> @$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python >= 3.11 is needed, this is {sys.version.split()[0]}")'
> test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
> $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r requirements-dev.txt
> touch $@

# The wheel, built without torch and without network, and installed; and the core in place, because Python started in a
# checkout imports the package from there.
$(VENV)/.installed: $(VENV)/.dependencies $(NATIVE_SOURCES) $(PACKAGE_SOURCES)
> @echo "building and installing the wheel"
> rm -rf build/lib* build/bdist* dist
> PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python setup.py --quiet build_ext --inplace
> PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-build-isolation --no-deps --wheel-dir dist .
> $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-index --no-deps --force-reinstall dist/*.whl
> @cd /tmp && $(abspath $(BIN))/python -c 'import pyparallel; print("pyparallel", pyparallel.features())'
> touch $@

demo: $(VENV)/.installed
> $(BIN)/python -m pyparallel run -n 2 examples/train_gpt.py
> @echo; echo "the same model again, step by step beside torch's own parts"
> $(BIN)/python -m pyparallel run -n 2 examples/train_gpt.py --compare --compare-steps 120 --out runs/compare

installed: $(VENV)/.installed

test: $(VENV)/.installed native
> $(BIN)/python -m pytest -q $(OF_ONE_PROCESS)
> flock --close $(CORES) $(BIN)/python -m pytest -q $(addprefix --ignore=,$(OF_ONE_PROCESS))

native: $(VENV)/.installed
> @$(CMAKE) -S . -B $(MODULE_BUILD) -DPYPARALLEL_TESTS=ON >/dev/null
> @$(CMAKE) --build $(MODULE_BUILD)
> @cd $(MODULE_BUILD) && $(abspath $(BIN))/ctest --output-on-failure -j 2

sanitized: $(VENV)/.dependencies
> @mkdir -p build; exec {lock}>$(CORES); flock $$lock; \
> for kind in $(SANITIZERS); do \
>   $(CMAKE) -S . -B build/$$kind -G Ninja -DCMAKE_MAKE_PROGRAM=$(abspath $(BIN))/ninja -DPython_EXECUTABLE=$(abspath $(BIN))/python $(SANITIZED) -DPYPARALLEL_SANITIZE=$$kind >/dev/null; \
>   $(CMAKE) --build build/$$kind; \
> done

sanitize: sanitized
> @for kind in $(SANITIZERS); do \
>   echo "native tests under $$kind"; \
>   (cd build/$$kind && TSAN_OPTIONS=halt_on_error=1 UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1 $(abspath $(BIN))/ctest --output-on-failure -j 2); \
> done

lint: $(VENV)/.installed
> $(BIN)/ruff check .
> $(BIN)/ruff format --check .
> $(BIN)/mypy
> $(BIN)/lint-imports
> $(BIN)/codespell
> find csrc tests -name '*.hpp' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh' | xargs -n 16 -P 2 $(BIN)/clang-format --dry-run --Werror

bench: $(VENV)/.installed
> $(BIN)/python -m benchmarks

clean:
> rm -rf build dist runs *.egg-info
