# Needs Python >= 3.10, a C++ compiler and make.
# make demo, make test; make help tells more.
STACK ?= openmmlab
VENV := $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
RUN := $(VENV)/bin/python
export STACK TORCH DEVICE MAX_JOBS
unexport PYTHONPATH PYTHONHOME

help:
	@echo 'make demo               train, evaluate and draw: pictures in minutes'
	@echo 'make test               lint and run the tests'
	@echo 'make test STACK=onedl   the same on the OneDL forks'
	@echo 'make env                only set up what both need, in .venv'
	@echo 'make clean              remove the environments and what was built'
	@echo
	@echo 'PYTHON=python3.11       the Python to use (3.10 or newer)'
	@echo 'TORCH=2.9.1             another torch'
	@echo 'DEVICE=cpu|cuda         what to install for, if not what is found'
	@echo 'PYTEST="-k svga"        options for pytest'

demo: env
	@$(RUN) tools/demo.py

# One thread in each of two processes: most of the time no more is used.
test: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy
	OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile $(PYTEST)

# The first of these that is a Python with what an environment needs, those
# that were tried before newer ones.
env:
	@for last in 13 99; do \
	  for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.12 python3.11 \
	      python3.10 python3.13 python3.14); do \
	    if "$$python" -c "import sys, ensurepip, venv; \
	        sys.exit(not (3, 10) <= sys.version_info < (3, $$last))" \
	        2>/dev/null; then \
	      exec "$$python" tools/setup_env.py; \
	    fi; \
	  done; \
	done; \
	python="$(or $(PYTHON),python3)"; \
	command -v "$$python" >/dev/null || { echo "make: there is no $$python:" \
	  'install Python 3.10 or newer.' >&2; exit 1; }; \
	exec "$$python" tools/setup_env.py

clean:
	rm -rf .venv .venv-onedl build dist *.egg-info .pytest_cache \
	  .ruff_cache .mypy_cache .import_linter_cache .hypothesis data/shapes work_dirs/demo
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo test env clean
