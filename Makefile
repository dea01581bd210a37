# Needs Python >= 3.10 and make.
# make demo, make test; make help tells more.
STACK ?= openmmlab
VENV := $(if $(filter onedl,$(STACK)),.venv-onedl,.venv)
RUN := $(VENV)/bin/python
export STACK TORCH
unexport PYTHONPATH PYTHONHOME PIP_TARGET PIP_PREFIX

help:
	@echo 'make demo               train, evaluate and draw: pictures in minutes'
	@echo 'make test               lint and run the tests'
	@echo 'make test-slow          the tests that take long, some ten minutes'
	@echo 'make test STACK=onedl   the same on the OneDL forks'
	@echo 'make env                only set up what both need, in .venv'
	@echo 'make docs               build the documentation site, in build/site'
	@echo 'make clean              remove the environments and what was built'
	@echo
	@echo 'PYTHON=python3.11       the Python to use (3.10 or newer)'
	@echo 'TORCH=2.9.1             another torch'
	@echo 'PYTEST="-k svga"        options for pytest'

demo: env
	@$(RUN) tools/demo.py

# One thread in each of two processes: most of the time no more is used. A process
# that dies ends the run, else the rest may wait for ever. In the order of the files,
# for xdist would leave the few tests that take long for the end.
# REQUIRE_PACKAGES: a test that would be skipped for a missing package fails.
test: env $(if $(filter openmmlab,$(STACK)),lint)
	REQUIRE_PACKAGES=1 OMP_NUM_THREADS=1 $(RUN) -m pytest -n 2 --dist loadfile \
	  --max-worker-restart 0 --no-loadscope-reorder $(PYTEST)

# With one stack only: OneDL's brings a NumPy with other types.
lint: env
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(VENV)/bin/lint-imports
	$(RUN) -m mypy
	$(VENV)/bin/check-jsonschema --builtin-schema vendor.github-workflows \
	  .github/workflows/*.yml

test-slow: env
	OMP_NUM_THREADS=1 $(RUN) -m pytest -m slow $(PYTEST)

# Warnings are errors. The pages are read, not imported: no torch is needed.
docs:
	@[ -x build/docs-venv/bin/mkdocs ] || { $(or $(PYTHON),python3) -m venv build/docs-venv && \
	  build/docs-venv/bin/pip install -q --disable-pip-version-check -r requirements/docs.txt; }
	@rm -rf build/docs && mkdir -p build/docs
	@git ls-files -co --exclude-standard '*.md' '*.png' '*.jpg' '*.ipynb' configs requirements \
	  tools LICENSE CITATION.cff | grep -Ev '^(tests|mobilevig_det|\.github)/' | \
	  tar -cT - | tar -xC build/docs
	@NO_MKDOCS_2_WARNING=1 build/docs-venv/bin/mkdocs build --quiet --strict
	@echo 'The site is in build/site: open build/site/index.html in a browser, or run' \
	  'python3 -m http.server --directory build/site'

# What tests compare ImageNet's recipe with. Without torchvision, which can't be
# imported beside a CPU build of torch.
IMAGENET := $(if $(filter onedl,$(STACK)),onedl-)mmpretrain timm einops mat4py \
  model-index ordered-set importlib-metadata lazy-importer zipp

# What an environment is made from. One that was made from something else, or
# was cut off half-way, is made anew.
export MADE_FROM := $(strip $(PYTHON) $(TORCH) $(CURDIR) $(shell \
  cat setup.py pyproject.toml requirements/$(STACK).txt 2>&1 | cksum))
ifneq ($(MADE_FROM),$(strip $(shell cat $(VENV)/made_from 2>/dev/null)))
env: new_env
endif
env:

# The first of these that is a Python with what an environment needs, those
# that were tried before newer ones.
new_env:
	@[ -f requirements/$(STACK).txt ] || { \
	  echo 'make: there is no STACK=$(STACK): take openmmlab or onedl.' >&2; \
	  exit 1; }; \
	for last in 13 99; do \
	  for python in $(if $(PYTHON),"$(PYTHON)",python3 python3.12 python3.11 \
	      python3.10 python3.13 python3.14); do \
	    if "$$python" -c "import sys, ensurepip, venv; \
	        sys.exit(not (3, 10) <= sys.version_info < (3, $$last))" \
	        2>/dev/null; then \
	      exec "$$python" -m venv --clear $(VENV); \
	    fi; \
	  done; \
	done; \
	python="$(or $(PYTHON),python3)"; \
	if ! command -v "$$python" >/dev/null; then \
	  why="there is no $$python"; \
	elif "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
	    2>/dev/null; then \
	  why="$$python has no venv (Debian, Ubuntu: apt install python3-venv)"; \
	else \
	  why="$$python is not 3.10 or newer ($$("$$python" -V 2>&1 | head -n 1))"; \
	fi; \
	echo "make: $$why: install Python 3.10 or newer, or name one:" \
	  "make PYTHON=/path/to/python3.12" >&2; \
	exit 1
	@echo 'Installing torch, MMEngine, mmcv, MMDetection and mobilevig_det into'
	@echo '$(VENV): some minutes, 4.5 GiB (11.5 GiB where torch comes with CUDA).'
	@sed 's/^torch==.*/$(if $(TORCH),torch==$(TORCH),&)/' \
	  requirements/$(STACK).txt >$(VENV)/constraints.txt
	@$(RUN) -m pip install --no-user --disable-pip-version-check \
	  -c $(VENV)/constraints.txt -e '.[$(STACK),export,ray,test]' \
	  $(if $(filter onedl,$(STACK)),onedl-)mmsegmentation && \
	$(RUN) -m pip install --no-user -q --no-deps $(IMAGENET) || { \
	  echo 'make: pip could not install it all; its last lines above say why.' \
	    'Then run the same command again.' >&2; exit 1; }
	@# Without OpenGL's library the wheel with windows can't load.
	@$(RUN) -c 'import cv2' 2>/dev/null || { \
	  $(RUN) -m pip uninstall -qy opencv-python && \
	  $(RUN) -m pip install --no-user -q opencv-python-headless; }
	@cd / && '$(CURDIR)/$(RUN)' -c 'import mobilevig_det'
	@printf '%s\n' "$$MADE_FROM" >$(VENV)/made_from

clean:
	rm -rf .venv .venv-onedl build dist *.egg-info .pytest_cache \
	  .ruff_cache .mypy_cache .import_linter_cache .hypothesis data/shapes work_dirs/demo
	find . -name __pycache__ -prune -exec rm -rf {} +

.PHONY: help demo test lint test-slow docs env new_env clean
