# SPDX-License-Identifier: Apache-2.0
# make setup | demo | test | test-fast | lint | docs | bench | clean      ARGS='...' goes to the program
SHELL := /bin/bash
VENV ?= .venv
PYTHON ?=
ROS ?= auto
ARGS ?=

# One stamp for each kind of environment that was asked for; it holds the environment's place, so
# that a folder that was moved is set up again.
READY := $(VENV)/.ready-$(ROS)-$(or $(ROS_DISTRO),unsourced)$(if $(PYTHON),-$(subst /,_,$(PYTHON)))
PLACE := $(abspath $(VENV))
BIN := $(PLACE)/bin
INPUTS := constraints.txt setup.py setup.cfg pyproject.toml package.xml $(wildcard thermal_nerf_loc/field/native/*.cpp thermal_nerf_loc/field/native/*.h) \
	$(wildcard environment/* environment/tf2_msgs/* environment/tf2_msgs/msg/* config/* launch/*)

# Another environment of ROS wheels leaves these behind in its children.
ifdef _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
endif

.PHONY: help setup demo test test-fast lint lint-ruff lint-imports lint-spelling lint-types \
	lint-architecture lint-files docs bench clean clean-all

help:
	@echo 'make setup      a virtual environment in $(VENV), ROS 2 included where there is one'
	@echo 'make demo       simulate, train, replay through the real node, report'
	@echo 'make test       all tests;  test-fast: without the slow ones and those with ROS'
	@echo 'make lint       ruff, import order, spelling, types, architecture, file hygiene'
	@echo 'make docs       the documentation as a site that needs no network: build/site/index.html'
	@echo 'make bench      all benchmarks, small and rough; docs/results.md has the full runs'
	@echo 'make clean      remove what was built;  clean-all: the environment too'

ifneq ($(shell cat $(READY) 2> /dev/null),$(PLACE))
.PHONY: $(READY)
endif

$(READY): $(INPUTS)
	@VENV='$(VENV)' PYTHON='$(PYTHON)' ROS='$(ROS)' environment/setup.sh
	@echo '$(PLACE)' > $@

setup: $(READY)
	@echo 'ready: $(VENV), ROS 2: '$$(cat $(VENV)/ros-mode)

demo: $(READY)
	@$(BIN)/thermal-nerf-loc demo $(ARGS)

# Where set-up found or made a ROS 2, a test that needs it must run: none may be skipped for want of it.
test: $(READY)
	@$(BIN)/python -m pytest $$(grep -q none $(VENV)/ros-mode || echo --require-ros) $(ARGS)

test-fast: $(READY)
	@$(BIN)/python -m pytest -m 'not slow and not ros' $(ARGS)

lint: lint-ruff lint-imports lint-spelling lint-types lint-architecture lint-files

lint-ruff: $(READY)
	@echo 'ruff' && $(BIN)/ruff check --quiet .

lint-imports: $(READY)
	@echo 'import order' && $(BIN)/flake8

lint-spelling: $(READY)
	@echo 'spelling' && $(BIN)/codespell

lint-types: $(READY)
	@echo 'types' && $(BIN)/mypy --no-error-summary

lint-architecture: $(READY)
	@echo 'architecture' && $(BIN)/python -m pytest -q --no-header -p no:cacheprovider test/house/test_architecture.py test/house/test_layout.py

# The hooks for which there is no target above; pre-commit looks at what git tracks.
lint-files: $(READY)
	@echo 'files' && SKIP=ruff,imports,spelling,types,architecture \
		$(BIN)/pre-commit run --all-files --color never > $(VENV)/pre-commit.log \
		|| { cat $(VENV)/pre-commit.log; false; }

# The reference is written from the program first; a test holds what is committed against it.
docs: $(READY)
	@$(BIN)/python docs/generate_reference.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet $(ARGS) && echo 'build/site/index.html'

bench: $(READY)
	@found=; for program in benchmarks/[a-z]*.py; do [ -e $$program ] || break; found=1; \
		echo $$program; $(BIN)/python $$program $(or $(ARGS),--quick) || exit 1; done; \
		[ -n "$$found" ] || { echo 'bench: no benchmark in benchmarks/' >&2; exit 1; }

clean:
	rm -rf build install log demo_out *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path ./$(VENV) -prune -o -name __pycache__ -type d -exec rm -rf {} +

clean-all: clean
	rm -rf $(VENV)
