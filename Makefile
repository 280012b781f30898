# layer-folding: `make help` lists what there is.

PYTHON  ?= python3
MODEL   ?= mobilenetv2-digits
DATA    ?= digits
RUN     ?= runs/$(MODEL)-$(notdir $(patsubst %/,%,$(DATA)))
RUNTIME ?= auto
BATCH   ?= 1
PRECISION ?= fp32
N       ?= 10000
LAMBDAS ?= 0.05 0.1 0.25 0.5 1
ENGINE  ?= sequential
# WEIGHTS, EPOCHS, SIZE and LAMBDA: unset means the default of the stage; BUDGET_MS and SPEEDUP: as fast as folding gets.

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
# A checkpoint runs code of your own (MODEL=package.module:function) only where the command names it.
named   := $(if $(findstring :,$(MODEL)),--model '$(MODEL)')
size    := $(if $(SIZE),--size $(SIZE))
weights := $(if $(WEIGHTS),--weights '$(WEIGHTS)')
lambda  := $(if $(LAMBDA),--lambda $(LAMBDA))
aim     := $(if $(LATENCY),--latency '$(LATENCY)') $(if $(PLAN),--gate all --remove '$(PLAN)')
# What the network is made from; where nothing of it is given, the one that is in RUN already will do.
given   := $(filter-out file undefined,$(origin MODEL) $(origin DATA) $(origin SIZE) $(origin WEIGHTS))
budget  := $(if $(BUDGET_MS),--budget-ms $(BUDGET_MS)) $(if $(SPEEDUP),--speedup $(SPEEDUP))
# A table, and the plan by it, are for one batch size and one precision: the first of each.
comma   := ,
first_batch     := $(firstword $(BATCH))
first_precision := $(firstword $(subst $(comma), ,$(PRECISION)))
known   := $(if $(wildcard $(RUN)/importance.csv),--importance '$(RUN)/importance.csv')
planned := $(if $(wildcard $(RUN)/plan.json),--plan '$(RUN)/plan.json')

.DEFAULT_GOAL := help
.PHONY: help setup demo test fuzz bench docs-check support lint pretrain prefold table plan fold sweep export trt-bench report
.PHONY: jetson-setup clean
.NOTPARALLEL:

help: ## list the targets and variables
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 21
	@echo
	@echo "  variables, here with their values:"
	@echo "    MODEL=$(MODEL)  DATA=$(DATA)  RUN=$(RUN)  RUNTIME=$(RUNTIME)  BATCH=$(BATCH)  PRECISION=$(PRECISION)"
	@echo "    LAMBDAS='$(LAMBDAS)'  ENGINE=$(ENGINE) (or ray)"
	@echo "    WEIGHTS=FILE  EPOCHS=N (0 skips training)  LAMBDA=X (depth penalty)  SIZE=PIXELS  N=$(N) (fuzz)  PYTHON=$(PYTHON)"
	@echo "    BUDGET_MS=X or SPEEDUP=S (plan)  LATENCY=CSV or PLAN=TXT (prefold)"
	@echo "    RUNS='DIR DIR' (report: several runs, and their frontier)"
	@echo "    BOARD=USER@HOST (trt-bench, table and jetson-setup run there, over ssh)"
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
	@echo "files in $(RUN): original.onnx and folded.onnx to deploy, gates.png, metrics.csv, fold.json, bench.json; as a page:"
	@$(PY) -m report '$(RUN)'

test: $(READY) ## all tests; fetches the TensorRT bindings that they check against, 30 MB
	@$(PY) -m tests.trt_bench.bindings
	@$(PY) -m pytest -q

fuzz: $(READY) ## fold N random networks and check them; ten minutes
	@FUZZ_EXAMPLES=$(N) $(PY) -m pytest -q tests/fold/test_fuzz.py

bench: $(READY) ## what folding itself costs, side by side with the paper's code; ten minutes
	@$(PY) -m benchmarks

docs-check: $(READY) ## run every command block of README.md and docs/, but for those that say why not; ten minutes
	@$(PY) -m tests.docs

support: $(READY) ## which networks of torchvision and timm fold: docs/support.md; ten minutes
	@$(PY) -m benchmarks.support -o docs/support.md

lint: $(READY) ## style and format
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

pretrain: $(READY) ## train MODEL on DATA, or take its WEIGHTS
	@test -z '$(given)' -a -e '$(RUN)/original.safetensors' || \
	  $(PY) -m train pretrain --run '$(RUN)' --model '$(MODEL)' --data '$(DATA)' $(size) $(weights) $(epochs)

prefold: aim pretrain ## learn which activations can go, those that save time by LATENCY=FILE; or open those of PLAN=FILE
	@$(PY) -m train prefold --run '$(RUN)' $(named) $(epochs) $(lambda) $(aim)

.PHONY: aim
aim: # before hours of training, not after
	@for file in '$(LATENCY)' '$(PLAN)'; do test -z "$$file" -o -e "$$file" || \
	  { echo "error: $$file: no such file; make table writes latency.csv, and make plan plan.txt" >&2; exit 2; }; done

plan: $(READY) ## choose by RUN/latency.csv what to fold: what loses least in BUDGET_MS or at SPEEDUP, else the fastest
	@$(PY) -m fold plan '$(RUN)' --latency '$(RUN)/latency.csv' $(known) $(budget) \
	  --batch $(first_batch) --precision $(first_precision)

fold: $(READY) ## take those activations out, hoist padding, fine-tune, fold
	@$(PY) -m train finetune --run '$(RUN)' $(named) $(epochs)
	@$(PY) -m fold fold '$(RUN)' $(named)

sweep: pretrain ## prefold, fine-tune and fold with each of LAMBDAS, each in RUN/lambda-X: accuracy against depth
	@$(PY) -m train sweep --run '$(RUN)' $(named) --lambdas $(LAMBDAS) --prefold='$(epochs)' --finetune='$(epochs)' --engine $(ENGINE)

export: $(READY) ## original and folded network to ONNX in each PRECISION, each compared with PyTorch
	@$(PY) -m export $(named) --precision $(PRECISION) --data '$(RUN)/eval.npz' \
	  '$(RUN)/original.safetensors' '$(RUN)/folded.safetensors'

trt-bench: ## latency of both, interleaved, against the plan's if there is one: TensorRT, else ONNX Runtime on the CPU
	@$(BENCH) bench --runtime $(RUNTIME) --batch $(BATCH) --data '$(RUN)/eval.npz' $(planned) \
	  -o '$(RUN)/bench.json' '$(RUN)/original.onnx' '$(RUN)/folded.onnx'

table: ## latency of every segment that could be merged, for make plan; goes on where it stopped
	@test ! -e $(READY) -o ! -e '$(RUN)/original.safetensors' || \
	  $(PY) -m export segments $(named) --precision $(first_precision) '$(RUN)'
	@$(BENCH) table --runtime $(RUNTIME) --batch $(first_batch) -o '$(RUN)/latency.csv' '$(RUN)/segments'

report: $(READY) ## RUN/report.html, all of it on one page; with RUNS="DIR DIR" one for each, and frontier.html
	@$(PY) -m report $(if $(RUNS),$(RUNS) -o frontier.html,'$(RUN)')

jetson-setup: ## on a Jetson, or with BOARD=user@host from here: check JetPack, add cuda-python; no PyTorch
ifdef BOARD
	@tar -cf - trt_bench | ssh '$(BOARD)' 'd=$$(mktemp -d) && tar -xf - -C "$$d" && cd "$$d" && \
	  /usr/bin/python3 -m trt_bench.jetson_setup; code=$$?; rm -rf "$$d"; exit $$code'
else
	@$(PYTHON) -m trt_bench.jetson_setup
endif

clean: ## remove .venv and caches, not runs/
	rm -rf $(VENV) .cache .pytest_cache .ruff_cache .hypothesis *.egg-info build
