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
# WEIGHTS, EPOCHS, SIZE, LAMBDA and DISTILL: unset means the default of the stage; BUDGET_MS, SPEEDUP and MAX_LOSS: as fast as
# folding gets.

# OpenMP threads that spin while they wait make PyTorch many times slower on a machine that does anything else.
export OMP_WAIT_POLICY ?= PASSIVE

VENV  := .venv
PY    := $(VENV)/bin/python
READY := $(VENV)/.ready
# The benchmark needs numpy and a runtime only: on a board it runs with the board's own Python, or what jetson-setup made.
JETSON := $(HOME)/.cache/layer-folding/python/bin/python
BENCH   = "$$(test -e $(READY) && echo $(PY) || { test -x $(call quote,$(JETSON)) && echo $(call quote,$(JETSON)); } || \
          echo $(call quote,$(PYTHON)))" -m trt_bench$(if $(BOARD),.board $(call quote,$(BOARD)))

# Values are the user's: each goes to the shell as one word, whatever is in it; of a list, each of its words.
quote = '$(subst ','\'',$(1))'
each = $(foreach one,$(1),$(call quote,$(one)))
option = $(if $(2),$(1) $(call quote,$(2)))
there = $(shell test -e $(call quote,$(1)) && echo yes)
GIVEN := PYTHON MODEL DATA RUN RUNTIME BATCH PRECISION N LAMBDAS ENGINE WEIGHTS EPOCHS SIZE LAMBDA DISTILL BUDGET_MS SPEEDUP SPEEDUPS MAX_LOSS HELD_OUT MAX_DROP LATENCY \
         PLAN RUNS BOARD
$(foreach name,$(GIVEN),$(if $(filter command environment,$(firstword $(origin $(name)))),$(if $(findstring $$,$(value $(name))),\
  $(error $(name): make would replace what begins with a dollar sign; give the value itself))))

run     = $(call quote,$(RUN)$(1))
epochs  = $(call option,--epochs,$(EPOCHS))
taught  = $(epochs)$(if $(DISTILL), --distill $(call quote,$(DISTILL)))
# A checkpoint runs code of your own (MODEL=package.module:function) only where the command names it.
trust   = $(if $(findstring :,$(MODEL)),--trust $(call quote,$(MODEL)))
aim     = $(call option,--latency,$(LATENCY)) $(if $(PLAN),--gate all --remove $(call quote,$(PLAN)))
# What the network is made from; where nothing of it is given, the one that is in RUN already will do.
# Code of your own has to be named in any case.
given   := $(filter-out file undefined,$(if $(findstring :,$(MODEL)),,$(origin MODEL)) $(origin DATA) $(origin SIZE) $(origin WEIGHTS))
budget  = $(call option,--budget-ms,$(BUDGET_MS)) $(call option,--speedup,$(SPEEDUP)) $(call option,--max-loss,$(MAX_LOSS)) \
          $(call option,--held-out,$(HELD_OUT))
# A table, and the plan by it, are for one batch size and one precision: the first of each.
comma   := ,
first_batch     = $(call quote,$(firstword $(BATCH)))
first_precision = $(call quote,$(precision))
precision = $(firstword $(subst $(comma), ,$(PRECISION)))
# The files that export writes in that precision.
onnx = $(call run,/$(1)$(if $(filter-out fp32,$(precision)),.$(precision)).onnx)
known   = $(if $(call there,$(RUN)/importance.csv),--importance $(call run,/importance.csv))
planning = $(PY) -m fold plan $(run) $(trust) --latency $(call run,/latency.csv) $(budget) \
           --batch $(first_batch) --precision $(first_precision)
# A table, and what each fit that it shows to be faster loses.
measured = $(MAKE) --no-print-directory table && $(PY) -m fold importance $(run) $(trust) --from fit --latency $(call run,/latency.csv)
planned = $(if $(call there,$(RUN)/plan.json),--plan $(call run,/plan.json))

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast coverage fuzz fuzz-files bench gpu-check docs docs-check support lint pretrain prefold fit table plan fold sweep export trt-bench report
.PHONY: types jetson-setup clean
.NOTPARALLEL:

help: ## list the targets and variables
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 21
	@echo
	@echo "  variables, here with their values:"
	@echo '    'MODEL=$(call quote,$(MODEL))  DATA=$(call quote,$(DATA))  RUN=$(run)
	@echo '    'RUNTIME=$(call quote,$(RUNTIME))  BATCH=$(call quote,$(BATCH))  PRECISION=$(call quote,$(PRECISION))
	@echo '    'LAMBDAS=$(call quote,$(LAMBDAS))  ENGINE=$(call quote,$(ENGINE)) '(or ray)'
	@echo "    WEIGHTS=FILE  EPOCHS=N (0 skips training)  LAMBDA=X (depth penalty)  SIZE=PIXELS"
	@echo "    DISTILL=X (0 to 1: share of the loss that the original network teaches; prefold, fold, sweep)"
	@echo '    'N=$(call quote,$(N)) '(fuzz)'  PYTHON=$(call quote,$(PYTHON))
	@echo "    SPEEDUPS='S S' (sweep, in place of LAMBDAS)  MAX_DROP=POINTS (export, of int8)"
	@echo "    BUDGET_MS=X or SPEEDUP=S or MAX_LOSS=POINTS, HELD_OUT=NPZ (plan, fit)  LATENCY=CSV or PLAN=TXT (prefold)"
	@echo "    RUNS='DIR DIR' (report: several runs, and their frontier)"
	@echo "    BOARD=USER@HOST (trt-bench, table and jetson-setup run there, over ssh)"
	@echo
	@echo "  example: make prefold fold export trt-bench MODEL=resnet20 DATA=cifar10/ WEIGHTS=resnet20.pt EPOCHS=10"

setup: $(READY) ## make .venv with all dependencies (the other targets do this by themselves)

$(READY): pyproject.toml constraints.txt
	@$(call quote,$(PYTHON)) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "error: " + sys.executable + " is older than Python 3.10; give another one, PYTHON=python3.11")'
	@echo "setting up $(VENV): PyTorch and the rest, a few minutes and a few GB on a fresh machine" >&2
	@$(call quote,$(PYTHON)) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## run the whole pipeline on handwritten digits, in minutes: train, prefold, fold, export, bench
	@$(PY) -m layer_folding demo --run runs/demo

# Tests in parallel, one thread each, a file at a time, in the order of tests/conftest.py; then those that measure time
# or need all cores, by themselves.
PARALLEL := OMP_NUM_THREADS=1 $(PY) -m pytest -q -n auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder
ALONE    := $(PY) -m pytest -q

test: $(READY) ## run all tests; fetches the TensorRT bindings that they check against, 30 MB
	@$(PY) -m tests.trt_bench.bindings
	@$(PARALLEL) -m 'not alone'
	@$(ALONE) -m alone

test-fast: $(READY) ## run the tests that are not slow, in minutes
	@$(PARALLEL) -m 'not alone and not slow'
	@$(ALONE) -m 'alone and not slow'

coverage: $(READY) ## print the share of lines that the fast tests run, in per cent
	@$(PARALLEL) -m 'not alone and not slow' --cov --cov-report=
	@$(ALONE) -m 'alone and not slow' --cov --cov-append --cov-report=
	@$(PY) -m coverage report --format=total

fuzz: $(READY) ## fold N random networks and check them, and draw anew in every other test that draws; ten minutes
	@FUZZ_EXAMPLES=$(call quote,$(N)) $(PY) -m pytest -q -m hypothesis

fuzz-files: $(READY) ## damage N files of the formats that the product reads; an hour for 10000
	@FUZZ_FILES=$(call quote,$(N)) FUZZ_SEED=$$(date +%s) $(PY) -m pytest -q --timeout=0 tests/test_damaged_files.py

bench: $(READY) ## measure what folding and fitting cost, beside the paper's code; twenty minutes
	@$(PY) -m benchmarks
	@$(PY) -m benchmarks.fit_cost

gpu-check: $(READY) ## on a machine with a GPU, run all that needs it: tests, CUDA graphs, the stages, TensorRT; ten minutes
	@mkdir -p runs
	@$(PY) -m benchmarks.gpu_check -o runs/gpu-check.json

docs-check: $(READY) ## run every command block of README.md and docs/ that can run here; ten minutes
	@$(PY) -m tests.docs

docs: $(READY) ## build the API reference from the docstrings: site/index.html; a warning is an error
	@$(PY) -m sphinx -W --keep-going -q -b html -d .cache/sphinx docs/api site
	@echo site/index.html

support: $(READY) ## write docs/support.md: which networks fold and become engines; three hours
	@$(PY) -m benchmarks.support --engines -o docs/support.md

lint: $(READY) types ## check style, format and types
	@$(PY) -m ruff check .
	@$(PY) -m ruff check --select C901 --exit-zero --quiet . # functions that branch a lot: a hint, no failure
	@$(PY) -m ruff format --check .

# mypy finds modules by their folders, so it gets the folders under the names that they are installed with.
TYPES := .cache/types/layer_folding
types: $(READY)
	@rm -rf $(TYPES) && mkdir -p $(TYPES)
	@here=$$PWD && ln -s "$$here"/layer_folding/* $(foreach one,train fold export trt_bench report,"$$here"/$(one)) $(TYPES)/ && \
	  cd $(TYPES)/.. && "$$here"/$(PY) -m mypy --config-file "$$here"/pyproject.toml -p layer_folding

pretrain: $(READY) ## train MODEL on DATA, or take its WEIGHTS
	@test -z '$(given)' -a -e $(call run,/original.safetensors) || \
	  $(PY) -m train pretrain --run $(run) --model $(call quote,$(MODEL)) --data $(call quote,$(DATA)) \
	  $(call option,--size,$(SIZE)) $(call option,--weights,$(WEIGHTS)) $(epochs)

prefold: aim pretrain ## learn which activations can go, those that save time by LATENCY=FILE; or carry out PLAN=FILE
	@$(PY) -m train prefold --run $(run) $(trust) $(taught) $(call option,--lambda,$(LAMBDA)) $(aim)

.PHONY: aim
aim: # before hours of training, not after
	@for file in $(call quote,$(LATENCY)) $(call quote,$(PLAN)); do test -z "$$file" -o -e "$$file" || \
	  { echo "error: $$file: no such file; make table writes latency.csv, and make plan plan.txt" >&2; exit 2; }; done

fit: pretrain ## put fitted layers in the place of others, for SPEEDUP or within MAX_LOSS: table, importance, plan, fit
	@$(measured)
	@$(planning) --importance $(call run,/importance.csv) $(if $(MAX_LOSS),,--measure)
	@$(PY) -m train fit $(run) $(trust) --plan $(call run,/plan.json)

plan: $(READY) ## choose by RUN/latency.csv what to fold: least loss within BUDGET_MS or SPEEDUP, or fastest within MAX_LOSS
	@$(planning) $(known)

fold: $(READY) ## remove the activations of open gates, hoist padding, fine-tune, fold; fitted layers: fine-tune, fold
	@$(PY) -m train finetune --run $(run) $(trust) $(taught)
	@$(PY) -m fold fold $(run) $(trust)

sweep: pretrain ## prefold, fine-tune and fold with each of LAMBDAS; or plan and fit for each of SPEEDUPS, by one table
ifdef SPEEDUPS
	@$(measured)
	@$(PY) -m train sweep --run $(run) $(trust) --speedups $(call each,$(SPEEDUPS)) \
	  --finetune=$(call quote,$(taught)) --engine $(call quote,$(ENGINE))
else
	@$(PY) -m train sweep --run $(run) $(trust) --lambdas $(call each,$(LAMBDAS)) \
	  --prefold=$(call quote,$(taught)) --finetune=$(call quote,$(taught)) --engine $(call quote,$(ENGINE))
endif

export: $(READY) ## write original and folded network as ONNX in each PRECISION, each compared with PyTorch
	@$(PY) -m export $(trust) --precision $(call quote,$(PRECISION)) --data $(call run,/eval.npz) $(call option,--max-drop,$(MAX_DROP)) \
	  $(call run,/original.safetensors) $(call run,/folded.safetensors)

trt-bench: ## time original and folded network in PRECISION, against the plan: TensorRT, else ONNX Runtime on the CPU
	@$(BENCH) bench --runtime $(call quote,$(RUNTIME)) --batch $(call each,$(BATCH)) --data $(call run,/eval.npz) $(planned) \
	  -o $(call run,/bench.json) $(call onnx,original) $(call onnx,folded)

table: ## time every segment that could be merged, for make plan; goes on where it stopped
	@test -e $(call run,/original.safetensors) -o -e $(call run,/segments/segments.json) || { \
	  echo "error: "$(run)": has no original.safetensors; give a run folder that make pretrain has made, RUN=DIR" >&2; exit 2; }
	@test ! -e $(READY) -o ! -e $(call run,/original.safetensors) || \
	  $(PY) -m export segments $(trust) --precision $(first_precision) $(run)
	@$(BENCH) table --runtime $(call quote,$(RUNTIME)) --batch $(first_batch) -o $(call run,/latency.csv) $(call run,/segments)

report: $(READY) ## write RUN/report.html, one page with all results; with RUNS="DIR DIR" a page for each, and frontier.html
	@$(PY) -m report $(if $(RUNS),$(call each,$(RUNS)) -o frontier.html,$(run))

jetson-setup: ## on a Jetson, or from here with BOARD=user@host: check JetPack, add cuda-python; no PyTorch
ifdef BOARD
	@tar -cf - --exclude=__pycache__ layer_folding trt_bench | ssh -- $(call quote,$(BOARD)) 'd=$$(mktemp -d) && tar -xf - -C "$$d" && cd "$$d" && \
	  /usr/bin/python3 -m trt_bench.jetson_setup; code=$$?; rm -rf "$$d"; exit $$code'
else
	@$(call quote,$(PYTHON)) -m trt_bench.jetson_setup
endif

clean: ## remove .venv and caches, not runs/
	rm -rf $(VENV) site .cache .pytest_cache .ruff_cache .hypothesis *.egg-info build
