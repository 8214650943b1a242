# make quickstart   corpus -> two models alone -> two groups codistilling -> evaluation -> report
# make quickstart-images    the same on images that come with a package
# make quickstart-churn     table -> lone network, ensemble, codistillation, each trained anew -> how far predictions change
# make evidence      the sweeps of docs/results.md, but for what has a result there; with RESULTS=runs/results from nothing
# make evidence-short      the main one with one seed         make evidence-corpora   what they need, from WET='crawl/*.wet.gz'
# make test         checks and tests          make test-slow   the tests that take minutes
# make test-newest-keras   tests of what Keras does not promise, with its newest release, in a venv of its own
# make check        ruff, mypy, pydoclint     make format      lets ruff rewrite what it can
# make docs         the API reference, as HTML pages in build/api
#
# Nothing but Python >= 3.11 with venv, and make, is assumed. Every stage says so when its work is already done.

PYTHON ?= python3
VENV ?= .venv
SEED ?= 1
PYTEST_ARGS ?=

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --disable-pip-version-check
NEWEST := $(VENV)-newest-keras/bin/python
QUICKSTART := runs/quickstart
CORPUS := $(QUICKSTART)/corpus
RUN := $(QUICKSTART)/seed_$(SEED)
SETTINGS := --gin_bindings="Experiment.seed = $(SEED)" \
	--gin_bindings="LanguageTask.corpus_dir = '$(CORPUS)/tokens'"

DIGITS := runs/digits
CLICKS := runs/synthetic

WET ?= crawl/*.warc.wet.gz
RESULTS ?= docs/results
EVIDENCE := runs/evidence

SIZES := 125k 500k 2m 8m
tokens = $(subst k,_000,$(subst m,_000_000,$(1)))

define corpus
$(PY) -m tf_codistill.prepare_corpus --gin_file=gin/corpus/evidence.gin --files='$(WET)' \
	--output_dir=$(EVIDENCE)/corpus_$(1) --gin_bindings="CorpusSettings.max_tokens = $(call tokens,$(1))"

endef

# $(call sweep,gin file,directory of the runs,file of results)
sweep = $(PY) -m tf_codistill.sweep --gin_file=gin/$(1)_sweep.gin --output_dir=$(2) --results=$(RESULTS)/$(3).jsonl

define language
$(call sweep,evidence/trials_$(1),$(EVIDENCE)/trials_$(1),trials_$(1))
$(call sweep,evidence/language_$(1),$(EVIDENCE)/language_$(1),language_$(1))

endef

.PHONY: quickstart quickstart-images quickstart-churn test test-slow test-newest-keras check format docs
.PHONY: evidence evidence-short evidence-corpora
.DELETE_ON_ERROR:

quickstart: $(VENV)/.installed
	@echo "== 1/5 corpus: the documentation on this machine"
	$(PY) -m tf_codistill.prepare_corpus --download_dir=$(CORPUS)/wet --output_dir=$(CORPUS)/tokens \
		--gin_file=gin/corpus/local_docs_tiny.gin
	@echo "== 2/5 two models alone, each with the weight decay that suits it best"
	$(PY) -m tf_codistill.launch --num_groups=2 --workdir=$(RUN)/alone --gin_file=gin/quickstart_alone.gin $(SETTINGS)
	@echo "== 3/5 two groups codistilling"
	$(PY) -m tf_codistill.launch --num_groups=2 --workdir=$(RUN)/codistillation --gin_file=gin/quickstart.gin $(SETTINGS)
	@echo "== 4/5 evaluation on held-out documents"
	$(PY) -m tf_codistill.evaluate --runs="models alone=$(RUN)/alone" --runs=codistillation=$(RUN)/codistillation \
		--output=$(RUN)/evaluation.json --gin_file=gin/quickstart.gin $(SETTINGS)
	@echo "== 5/5 report"
	$(PY) -m tf_codistill.report --runs="models alone=$(RUN)/alone" --runs=codistillation=$(RUN)/codistillation \
		--evaluation=$(RUN)/evaluation.json --output_dir=$(RUN)/report

quickstart-images: $(VENV)/.installed-digits
	@echo "== 1/5 images: handwritten digits, of scikit-learn"
	$(PY) -m tf_codistill.make_digits --output_dir=$(DIGITS)/source
	$(PY) -m tf_codistill.prepare_images --source=$(DIGITS)/source/digits.zip --output_dir=$(DIGITS)/images
	@echo "== 2/5 one group alone"
	$(PY) -m tf_codistill.launch --num_groups=1 --workdir=$(DIGITS)/alone --gin_file=gin/images/digits_alone.gin
	@echo "== 3/5 two groups codistilling"
	$(PY) -m tf_codistill.launch --num_groups=2 --workdir=$(DIGITS)/codistillation --gin_file=gin/images/digits.gin
	@echo "== 4/5 evaluation on images that none of them has seen"
	$(PY) -m tf_codistill.evaluate --runs=alone=$(DIGITS)/alone --runs=codistillation=$(DIGITS)/codistillation \
		--output=$(DIGITS)/evaluation.json --gin_file=gin/images/digits.gin --gin_bindings="ImageTask.held_out = 'test'"
	@echo "== 5/5 report"
	$(PY) -m tf_codistill.report --runs=alone=$(DIGITS)/alone --runs=codistillation=$(DIGITS)/codistillation \
		--evaluation=$(DIGITS)/evaluation.json --output_dir=$(DIGITS)/report

quickstart-churn: $(VENV)/.installed
	@echo "== 1/3 rows in Criteo's layout, made from a function that is known"
	$(PY) -m tf_codistill.make_clicks --num_rows=100000 --num_files=4 --output_dir=$(CLICKS)/rows
	@echo "== 2/3 table: preprocessing, fitted on half of the rows"
	$(PY) -m tf_codistill.prepare_clicks --gin_file=gin/tables/synthetic_tiny.gin --files='$(CLICKS)/rows/*.txt' \
		--output_dir=$(CLICKS)/table
	@echo "== 3/3 each trained anew, three times, and compared"
	$(PY) -m tf_codistill.retrain --workdir=$(CLICKS)/churn --gin_file=gin/clicks/churn.gin --num_retrains=3
	@echo "$(CLICKS)/churn/churn.png"

evidence-corpora: $(VENV)/.installed
	$(foreach size,$(SIZES),$(call corpus,$(size)))

evidence: $(VENV)/.installed
	$(foreach size,$(SIZES),$(call language,$(size)))
	$(call sweep,evidence/map,$(EVIDENCE)/map,map)
	$(call sweep,evidence/two_phase,$(EVIDENCE)/two_phase,two_phase)
	$(call sweep,evidence/batch_trials,$(EVIDENCE)/batch_trials,batch_trials)
	$(call sweep,evidence/batch,$(EVIDENCE)/batch,batch)
	$(call sweep,images/cifar,runs/cifar/sweep,cifar)
	$(call sweep,evidence/quickstart,$(QUICKSTART)/sweep,quickstart)

evidence-short: $(VENV)/.installed
	$(PY) -m tf_codistill.sweep --gin_file=gin/evidence/language_125k_sweep.gin --output_dir=$(EVIDENCE)/short \
		--gin_bindings="Sweep.seeds = [11]"

test: check
	$(PY) -m pytest -m "not slow" --numprocesses=auto --dist=loadfile --no-loadscope-reorder $(PYTEST_ARGS)

test-slow: $(VENV)/.installed-dev
	$(PY) -m pytest -m slow $(PYTEST_ARGS)

# The package asks for an older Keras than this installs, which pip tells, and does.
test-newest-keras: | $(PY)
	$(PY) -m venv $(VENV)-newest-keras
	$(NEWEST) -m pip --disable-pip-version-check install --editable ".[test]"
	$(NEWEST) -m pip --disable-pip-version-check install --upgrade --pre keras
	$(NEWEST) -m pytest tests/keras_private_test.py tests/weights_test.py tests/recurrent_state_test.py \
		tests/teaching/quantized_model_test.py tests/training/algorithm_1_test.py \
		tests/training/codistillation_test.py tests/training/keras_face_test.py -m "not slow" $(PYTEST_ARGS)

check: $(VENV)/.installed-dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy
	$(PY) -m pydoclint.main tf_codistill benchmarks examples docs

format: $(VENV)/.installed-dev
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

docs: $(VENV)/.installed-dev
	$(PY) docs/api_reference.py build/api
	@echo "build/api/index.html"

$(PY):
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
		f"error: $(PYTHON) is Python {v}; 3.11 or newer is needed, name one with make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)

# A stamp is younger than setup.py as long as what is installed is what setup.py asks for.
$(VENV)/.installed: setup.py pyproject.toml | $(PY)
	$(PIP) install --editable .
	@touch $@

$(VENV)/.installed-digits: setup.py pyproject.toml | $(PY)
	$(PIP) install --editable ".[digits]"
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: setup.py pyproject.toml | $(PY)
	$(PIP) install --editable ".[test,dev,docs]"
	@touch $@ $(VENV)/.installed
