# Every target brings its own environment: nothing to do before `make demo`.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

DEMO_OUT := out/demo.mp4
DEMO := $(BIN)/alchemist generate "A dog jumps beside a robot on the beach" \
	--ref dog=docs/demo/dog.png --ref robot=docs/demo/robot.png \
	--background beach=docs/demo/beach.png -o $(DEMO_OUT) --sheet $(DEMO_OUT:.mp4=.png)

.DEFAULT_GOAL := help
.PHONY: help demo test check weights

help: ## list the targets
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

demo: $(INSTALLED) ## make the README's first video
	$(DEMO)
	@echo "The video is at $(DEMO_OUT)"

test: $(INSTALLED) ## run the tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

check: $(INSTALLED) ## lint and types
	$(BIN)/ruff check .
	$(BIN)/mypy src

weights: $(INSTALLED) ## train the shipped EmojiWorld models on, from where they stand
	$(BIN)/python -m video_alchemist.emojiworld.recipes all

# torch goes first and pinned: resolved together with the rest, pip may fetch a build for another accelerator.
$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --upgrade pip
	$(BIN)/python -m pip install 'torch==2.13.0'
	$(BIN)/python -m pip install -e '.[dev]'
	@touch $@
