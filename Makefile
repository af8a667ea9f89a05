# make        train in the project's virtual environment, .venv
# make test   run the tests in it
# make book   render the book: _book/index.html
# make lint   check the style; `ruff format .` fixes most of it
# make env    set it up with everything, the tests' and play.ipynb's requirements included

PYTHON ?= python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check

.PHONY: train test book lint env

train: $(VENV)/installed
	$(VENV)/bin/python train_gpt2.py

test: env
	$(VENV)/bin/python -m pytest -q

book: env
	$(VENV)/bin/python lecture.py book

lint: env
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

env: $(VENV)/installed-dev

# Linux without an NVIDIA GPU: this torch has a CPU build, others may bring several GB of CUDA.
$(VENV)/installed: requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 10) else \
	    "Python 3.10 or newer is needed, for example: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	if [ "$$(uname)" = Linux ] && ! command -v nvidia-smi >/dev/null; then $(PIP) torch==2.13.0; fi
	$(PIP) -r requirements.txt
	touch $@

$(VENV)/installed-dev: requirements-dev.txt $(VENV)/installed
	$(PIP) -r requirements-dev.txt
	touch $@
