# layer-folding: `make help` lists what there is.

PYTHON  ?= python3
MODEL   ?= mobilenetv2-digits
DATA    ?= digits
RUN     ?= runs/$(MODEL)-$(notdir $(patsubst %/,%,$(DATA)))
RUNTIME ?= auto
BATCH   ?= 1
N       ?= 10000
# WEIGHTS, EPOCHS and LAMBDA: unset means the default of the stage.

# OpenMP threads that spin while they wait make PyTorch many times slower on a machine that does anything else.
export OMP_WAIT_POLICY ?= PASSIVE

VENV  := .venv
PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
# The benchmark needs numpy and a runtime only: on a board it runs with the board's own Python, or what jetson-setup made.
JETSON := $(HOME)/.cache/layer-folding/python/bin/python
BENCH  := $$(test -e $(READY) && echo $(PY) || { test -x $(JETSON) && echo $(JETSON); } || echo $(PYTHON)) \
          -m trt_bench$(if $(BOARD),.board '$(BOARD)')

epochs  := $(if $(EPOCHS),--epochs $(EPOCHS))
weights := $(if $(WEIGHTS),--weights '$(WEIGHTS)')
lambda  := $(if $(LAMBDA),--lambda $(LAMBDA))

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz bench support lint prefold fold export trt-bench table jetson-setup clean
.NOTPARALLEL:

help: ## list the targets and variables
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 21
	@echo
	@echo "  variables, here with their values:"
	@echo "    MODEL=$(MODEL)  DATA=$(DATA)  RUN=$(RUN)  RUNTIME=$(RUNTIME)  BATCH=$(BATCH)"
	@echo "    BOARD=USER@HOST (trt-bench, table and jetson-setup run there, over ssh)"
	@echo "    WEIGHTS=FILE  EPOCHS=N (0 skips training)  LAMBDA=X (depth penalty)  N=$(N) (fuzz)  PYTHON=$(PYTHON)"
	@echo
	@echo "  example: make prefold fold export trt-bench MODEL=resnet20 DATA=cifar10/ WEIGHTS=resnet20.pt EPOCHS=10"

setup: $(READY) ## make .venv with all dependencies (the other targets do this by themselves)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: $(PYTHON) is older than Python 3.10; give another one, PYTHON=python3.11")'
	@echo "setting up $(VENV): PyTorch and the rest, a few minutes and a few GB on a fresh machine" >&2
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## the whole pipeline on handwritten digits, in minutes: train, prefold, fold, export, bench
	@$(MAKE) --no-print-directory demo-stages RUN=runs/demo MODEL=mobilenetv2-digits DATA=digits WEIGHTS=

.PHONY: demo-stages
demo-stages:
	@$(PY) -m train pretrain --run '$(RUN)' --model $(MODEL) --data '$(DATA)' --epochs 10 --batch 64
	@$(PY) -m train prefold --run '$(RUN)' --epochs 8 --batch 64 --lambda 1
	@$(PY) -m train finetune --run '$(RUN)' --epochs 6 --batch 64
	@$(PY) -m fold fold '$(RUN)'
	@$(MAKE) --no-print-directory export trt-bench RUN=$(RUN)
	@echo
	@echo "files in $(RUN): original.onnx and folded.onnx to deploy, gates.png, metrics.csv, fold.json, bench.json"

test: $(READY) ## all tests; fetches the TensorRT bindings that they check against, 30 MB
	@$(PY) -m tests.trt_bench.bindings
	@$(PY) -m pytest -q

fuzz: $(READY) ## fold N random networks and check them; ten minutes
	@FUZZ_EXAMPLES=$(N) $(PY) -m pytest -q tests/fold/test_fuzz.py

bench: $(READY) ## what folding itself costs, side by side with the paper's code; ten minutes
	@$(PY) -m benchmarks

support: $(READY) ## which networks of torchvision and timm fold: docs/support.md; ten minutes
	@$(PY) -m benchmarks.support -o docs/support.md

lint: $(READY) ## style and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

prefold: $(READY) ## train MODEL on DATA or take its WEIGHTS, then learn which activations can go
	@$(PY) -m train pretrain --run '$(RUN)' --model $(MODEL) --data '$(DATA)' $(weights) $(epochs)
	@$(PY) -m train prefold --run '$(RUN)' $(epochs) $(lambda)

fold: $(READY) ## take those activations out, hoist padding, fine-tune, fold
	@$(PY) -m train finetune --run '$(RUN)' $(epochs)
	@$(PY) -m fold fold '$(RUN)'

export: $(READY) ## original and folded network to ONNX, each compared with PyTorch
	@$(PY) -m export --data '$(RUN)/eval.npz' '$(RUN)/original.safetensors' '$(RUN)/folded.safetensors'

trt-bench: ## latency of both, interleaved: TensorRT on a GPU or Jetson, else ONNX Runtime on the CPU
	@$(BENCH) bench --runtime $(RUNTIME) --batch $(BATCH) --data '$(RUN)/eval.npz' \
	  -o '$(RUN)/bench.json' '$(RUN)/original.onnx' '$(RUN)/folded.onnx'

table: ## latency of every segment that could be merged, for make plan; goes on where it stopped
	@$(BENCH) table --runtime $(RUNTIME) --batch $(firstword $(BATCH)) -o '$(RUN)/latency.csv' '$(RUN)/segments'

jetson-setup: ## on a Jetson, or with BOARD=user@host from here: check JetPack, add cuda-python; no PyTorch
ifdef BOARD
	@tar -cf - trt_bench | ssh '$(BOARD)' 'd=$$(mktemp -d) && tar -xf - -C "$$d" && cd "$$d" && \
	  /usr/bin/python3 -m trt_bench.jetson_setup; code=$$?; rm -rf "$$d"; exit $$code'
else
	@$(PYTHON) -m trt_bench.jetson_setup
endif

clean: ## remove .venv and caches, not runs/
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis *.egg-info build
