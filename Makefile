# make demo   the main job, on built-in data: a base MLLM, its SFT and DPO branches, and what became of their encoders
# make test   the tests (fast ones first), eleven minutes on two idle cores
# make test-thorough  all tests: also those that are costly and run lines that others run too
# make check  lint, format, types, import directions
# make figures  the gallery in figures/ made anew; PHOTOS=folder for its photographs as well (figures/README.md)
# make docs   the documentation, into site/
# make notebooks  docs/notebooks executed again, with their outputs stored in them
# make bench  speed and memory against the alternatives
# make reliability  kills, flipped bits, full disks, hostile files: the table of docs/guides/reliability.md; takes long
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# faiss-cpu and faiss-gpu install the same files: exactly one of them, by what the machine has.
FAISS := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo cuda || echo cpu)

.PHONY: demo notebooks test test-fast test-slow test-thorough check docs bench reliability clean
.DEFAULT_GOAL := demo

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[train,$(FAISS),dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/visprobe demo

test: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not thorough' -n 2 --dist worksteal -q

test-fast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m 'not slow and not thorough' -n 2 -q

test-slow: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -m slow -n 2 -q

test-thorough: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 --dist worksteal -q

check: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest -q tests/test_house.py

docs: $(VENV)/.installed
	$(BIN)/sphinx-build -W --keep-going -E -a -c docs . site

notebooks: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[docs]'
	for file in docs/notebooks/*.ipynb; do \
	  OMP_NUM_THREADS=1 PYTHONWARNINGS='ignore:IProgress not found' $(BIN)/jupyter nbconvert --to notebook --execute \
	    --inplace --coalesce-streams --ExecutePreprocessor.record_timing=False $$file || exit 1; done

bench: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/all.py

reliability: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/python -W ignore benchmarks/reliability.py

# What figures/README.md shows, by the commands that stand there. Finished training runs in build/ are not done again.
GALLERY := build/figures
VISPROBE := $(abspath $(BIN))/visprobe
CHECKPOINTS := --ckpt study/base --ckpt study/sft-seed0 --ckpt study/dpo-seed0
# $(call keep,folder of a report,folder of the gallery,names of figures)
keep = mkdir -p figures/$(2) && for name in $(3); do \
	cp $(GALLERY)/$(1)/figures/$$name.png $(GALLERY)/$(1)/figures/$$name.svg $(GALLERY)/$(1)/figures/$$name.csv figures/$(2)/ || exit 1; done

.PHONY: figures
figures: $(VENV)/.installed
	mkdir -p $(GALLERY)
	cd $(GALLERY) && $(VISPROBE) demo --arms sft,dpo,grpo --seeds 3 --output-dir study
	cd $(GALLERY) && $(VISPROBE) gradcam digits $(CHECKPOINTS) --limit 48 -o looks
	$(call keep,study/report,demo-study,arms_over_runs prototype_accuracy representation_drift weight_drift answers)
	cp $(GALLERY)/study/report/report.json figures/demo-study/
	$(call keep,looks,demo-looks,maps attribution_scores map_contrast)
	cp $(GALLERY)/looks/report.json figures/demo-looks/
ifdef PHOTOS
	test -f $(PHOTOS)/camvid-85/classes.txt || printf '%s\n' sky building pole road pavement tree sign fence car pedestrian \
		bicyclist unlabelled > $(PHOTOS)/camvid-85/classes.txt
	cd $(GALLERY) && for task in imagenet probe robust; do \
		$(VISPROBE) $$task $(CHECKPOINTS) --data $(abspath $(PHOTOS))/cifar10-2500 -o $$task || exit 1; done
	cd $(GALLERY) && $(VISPROBE) segment $(CHECKPOINTS) --data $(abspath $(PHOTOS))/camvid-85 --ignored 11 -o segment
	$(call keep,imagenet,demo-on-photos,prototype_accuracy knn_accuracy)
	$(call keep,probe,demo-on-photos,linear_probe)
	$(call keep,robust,demo-on-photos,robustness)
	$(call keep,segment,demo-on-photos,segmentation)
else
	@echo "figures/demo-on-photos is left as it is: name the folder of its photographs, as in make figures PHOTOS=photos"
endif

clean:
	rm -rf $(VENV) visprobe-demo
