# Two commands: `make demo` shows the whole way from songs to music, `make test` runs every test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO ?= demo

.PHONY: setup demo test quality format clean

setup: $(READY)

# Made anew only when the dependencies change.
$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than Python 3.11; run: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

# The whole main job on songs and a tiny model made on the spot: the same commands as for real ones.
demo: $(READY)
	rm -rf $(DEMO)
	$(BIN)/python scripts/make_demo.py --output_dir $(DEMO)
	$(BIN)/python scripts/prepare_dataset.py --data_dir $(DEMO)/songs \
		--pretrained_model_name_or_path $(DEMO)/model --output_dir $(DEMO)/data
	$(BIN)/accelerate launch --cpu --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no \
		scripts/train_lora.py --config recipes/tiny_cpu.yaml --dataset $(DEMO)/data \
		--pretrained_model_name_or_path $(DEMO)/model --output_dir $(DEMO)/lora
	$(BIN)/python scripts/generate.py --pretrained_model_name_or_path $(DEMO)/model --lora $(DEMO)/lora --compare \
		--prompt "bright synth-pop, fast arpeggios" --lyrics "[Instrumental]" --bpm 128 --keyscale "D major" \
		--timesignature 4 --duration 10 --seed 1 --output $(DEMO)/music.wav
	$(BIN)/python scripts/demo_report.py --demo_dir $(DEMO)

test: $(READY)
	$(BIN)/python -m pytest

quality: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(DEMO) .pytest_cache .ruff_cache
