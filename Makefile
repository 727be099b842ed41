# `make study` and `make test` are all a new user needs; both set up .venv first.
PYTHON ?= python3
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help setup study test test-torch test-all lint format types bench growth bench-compare coverage mutants mass docs examples figures gallery reproduce wheels clean

help:
	@echo "make study   find, embed, judge and report on the diabetes data, into study/"
	@echo "make test    run the tests (doctests and the README included)"
	@echo "make test-torch   those of the search without the compiled engine"
	@echo "make test-all   those that take long, too"
	@echo "make reproduce   rerun the papers' experiments in full, into docs/results/ (hours; goes on where it was)"
	@echo "make mutants   change numbers and comparisons one at a time and see that a test fails (hours; likewise)"
	@echo "make mass   judge thousands of points and hold them against high precision (16 minutes of one core; likewise)"
	@echo "make growth   grow networks in eleven ways, beside each other (hours; likewise)"
	@echo "make docs    build the site, into site/"
	@echo "make lint types coverage bench bench-compare examples figures gallery format wheels clean"

# The library and the papers' experiments, once, and again when the requirements change. torch is pinned in
# constraints.txt.
.venv/.installed: pyproject.toml constraints.txt experiments/pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]' -e experiments
	@touch $@

# The compiled engine, where a compiler is; without it everything runs in torch. Again when its source changes.
.venv/.native: .venv/.installed $(wildcard native/*.* native/*/*.*)
	@if $(BIN)/python -m pip install --quiet --disable-pip-version-check ./native > .venv/native.log 2>&1 && \
		kernel=$$($(BIN)/python -c 'import semiflat_native as n; print(n.kernels()[0])' 2>> .venv/native.log); \
	then echo "The compiled engine is installed: $$kernel."; \
	else $(BIN)/python -m pip uninstall --quiet --yes semiflat-native >> .venv/native.log 2>&1; \
	echo "No compiled engine (.venv/native.log says why): searches run in torch and take 2 to 5 times as long."; fi
	@touch $@

setup: .venv/.native

study: setup
	$(BIN)/semiflat study --data diabetes --out study

# Two processes with one thread each beat one process with two on matrices this small.
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

# The search's core in torch alone, as it runs where no compiler is.
test-torch: setup
	SEMIFLAT_ENGINE=torch OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal tests/test_search.py

# Those marked slow, too, with models of other packages (200 MB of these); and with other examples where they are drawn.
test-all: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[zoo]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "slow or not slow" \
		--hypothesis-profile=other

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: setup
	$(BIN)/mypy
	$(BIN)/mypy --config-file tests/mypy.ini

bench: setup
	$(BIN)/python benchmarks/hessian.py
	$(BIN)/python benchmarks/judge.py
	$(BIN)/python benchmarks/embeddings.py
	$(BIN)/python benchmarks/reduce.py
	$(BIN)/python benchmarks/study.py
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/certificates.py  # about six minutes
	$(BIN)/python benchmarks/paths.py
	$(BIN)/python benchmarks/induced.py --threads 2
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/hierarchy.py  # five minutes on a quiet machine
	$(BIN)/python benchmarks/carry.py
	$(BIN)/python benchmarks/unit_curvature.py  # ten minutes
	$(BIN)/python benchmarks/where_to_grow.py  # five minutes
	$(BIN)/python benchmarks/judge_module.py
	$(BIN)/python benchmarks/module_peers.py  # makes an environment for each peer first
	$(BIN)/python benchmarks/search.py  # the whole of it: about 40 minutes

# Growing against other ways of growing, then predictions; goes on where it was. The spoken vowels come with aeon (pip
# install --no-deps aeon), TINY by its authors with gromo (pip install -c constraints.txt gromo==0.1.0); it is left out
# where that is missing. benchmarks/growth/run.py says how two processes share it.
growth: setup
	cd benchmarks && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m growth
	cd benchmarks && OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m growth --predictions 18
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_growth.py

# Beside the figures last recorded, which hold for their machine; ONLY="paths induced" for some, NEW=folder for what is
# measured already.
bench-compare: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/compare.py $(ONLY) $(if $(NEW),--new $(NEW))

# The suite under coverage, and the files of which the least is run.
coverage: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[coverage]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal --cov --cov-report=
	$(BIN)/coverage report --sort=cover --skip-covered | sed -n '1,40p;$$p'

# Goes on where it was; `benchmarks/mutants.py --list` prints the survivors known so far.
mutants: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[mutants]'
	nice $(BIN)/python benchmarks/mutants.py

# Goes on where it was; 16 minutes of one core. --part 0/2 and 1/2 share the items among two processes.
mass: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/mass_verdicts.py

# The site, into site/; a warning is an error (but with --quiet it would be none). `make test` runs every example in it.
docs: setup
	OMP_NUM_THREADS=1 $(BIN)/python docs/make_site.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --config-file build/mkdocs.yml

# The pictures of the docs, drawn by the library, with the examples beside them run.
figures: setup
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_embeddings.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_certificates.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_paths.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_induced.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_bounds.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_modules.py
	OMP_NUM_THREADS=1 $(BIN)/python docs/draw_growth.py
	$(MAKE) gallery
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q docs README.md

reproduce: setup
	OMP_NUM_THREADS=1 $(BIN)/semiflat reproduce all --out docs/results
	$(MAKE) gallery

# The notebooks are stored with what they show; the tests run them and compare.
examples: setup
	OMP_NUM_THREADS=1 $(BIN)/python tests/notebooks.py

gallery: setup
	$(BIN)/python docs/make_gallery.py

# The wheel and the source, built and checked; the wheel is installed where nothing else is, and used.
wheels:
	rm -rf dist build/wheels
	$(PYTHON) -m venv build/wheels
	build/wheels/bin/python -m pip install --quiet --disable-pip-version-check build twine
	build/wheels/bin/python -m build --outdir dist .
	build/wheels/bin/twine check --strict dist/*
	$(PYTHON) -m venv --clear build/wheels
	build/wheels/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd build && wheels/bin/semiflat --help > /dev/null && wheels/bin/semiflat --version
	cd build && wheels/bin/python -c "from semiflat import *; print(MLP([2, 3, 1]))"

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis study build site
