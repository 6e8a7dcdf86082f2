# make demo    bars -> audit -> features -> PPO -> bundle -> verdict -> one served answer   (DATA=path for your own bars)
# make test    every test            make lint    style, types, import rules
# make venv    what make test and make lint call first (make demo calls for less); the second time it costs nothing
# make certify the learner on markets whose optimum is known: minutes on every core
# make noise   200 driftless markets through the whole gate, and 40 with a planted edge: 20 minutes
# make leaks   which look-aheads are caught and how many honest columns accused, on DATA=path: 15 minutes
# make curve   the gate's operating curve on synthetic returns, with its picture
# make kill    runner, journal and PostgreSQL killed with -9 a hundred times: nothing acknowledged is lost
# make peers   CPU seconds to the optimum on M2 beside tuned peers (jax where it is installed): 5 minutes
# make drill   what fails, how often, what was lost: a small round, under 10 minutes (drill-full: hours)
# make drill-own  the same without the lines that `make test` runs: 3 minutes, in CI
# make cloud   trainers killed and aliases contested in a bucket, at full size
# make docs    the site, with every warning an error, into build/site; its pages are made anew before
# make wheel   the wheel alone in clean environments: size, doctor, a served bundle; PYTHONS="python3.11 python3.13"
# make scale   2.6 M minute bars and 50 assets: trained, judged, seconds and memory
# make audit   bandit over what ships, pip-audit over what is locked; both from an environment of their own
# make lock    the locks anew, from pyproject.toml

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

PYTHON ?= python3
DATA ?=
BIN := .venv/bin
# The demo needs [train,judge,serve]; tests and lint need [dev], which holds all of it at the same versions. A stamp's
# name is the content of the files, so a touched file reinstalls nothing and a changed one always does.
SUM = $(shell cat $(1) pyproject.toml | cksum | cut -d' ' -f1)
DEMO := .venv/.demo-$(call SUM,requirements-demo.lock)
DEV := .venv/.dev-$(call SUM,requirements.lock requirements-demo.lock)

# One thread a process: two test workers with a thread pool each only fight for the same cores.
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_ROOT_USER_ACTION := ignore
# Packages are compiled where they are first imported, not at install (two CPU minutes for 22,000 files). Containers
# often set this; then nothing would be kept, and every process compile numpy, FastAPI and torch anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help venv demo test lint certify noise leaks curve \
  kill peers drill drill-own drill-full cloud docs wheel scale format audit lock clean

help:
	@sed -n 's/^# \(make .*\)/  \1/p' Makefile

venv: $(DEV)

demo: $(DEMO)
	@$(BIN)/himari demo $(if $(DATA),--data "$(DATA)")
	echo "himari itself is $(BIN)/himari; to have it at hand: source $(BIN)/activate"

test: $(DEV)
	@$(ONE_THREAD) $(BIN)/pytest -n 2 --dist loadfile

lint: $(DEV)
	@$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

certify: $(DEV)
	@$(BIN)/himari certify base

noise: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/gate_noise.py --markets 200

leaks: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/leak_power.py --data "$(DATA)"

curve: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/gate_curve.py --runs 200 --picture docs/gate_curve.svg

kill: $(DEV)
	@$(ONE_THREAD) HIMARI_KILLS=100 $(BIN)/pytest -q tests/journal/test_kill.py tests/journal/test_postgres.py \
	  tests/runner/test_kill.py tests/runner/test_replay.py tests/serving/test_answer_journal.py

peers: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/time_to_optimum.py --seeds 3

drill: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/drill.py --record

drill-own: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/drill.py --own

drill-full: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/drill.py --full --record

cloud: $(DEV)
	@export HIMARI_KILLS=20 HIMARI_ALIAS_MOVES=200 HIMARI_TASKS=8
	$(ONE_THREAD) $(BIN)/pytest -q -s tests/cloud/test_trainers.py tests/cloud/test_tasks.py \
	  tests/cloud/test_costs.py tests/cloud/test_run_jobs.py tests/storage/test_bucket_faults.py

docs: $(DEV)
	@for page in house reference summary; do $(BIN)/python docs/$$page.py; done
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict # --quiet would hide its own warnings from --strict
	echo "build/site/index.html"

PYTHONS ?= $(PYTHON)
wheel:
	@$(PYTHON) deploy/try_wheel.py $(PYTHONS)

scale: $(DEV)
	@$(ONE_THREAD) $(BIN)/python benchmarks/scale.py

format: $(DEV)
	@$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(DEMO): LOCK := requirements-demo.lock
$(DEV): LOCK := requirements.lock
$(DEMO) $(DEV):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || {
	  echo "$(PYTHON) is $$($(PYTHON) -V 2>&1 | head -1), expected Python 3.11 or newer; try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2
	  exit 2
	}
	log=.venv/install.log
	progress() { # pip's story on stdin; a number for every twenty packages, appended, so that a pipe shows it as well
	  n=0
	  while read -r line; do
	    case "$$line" in
	      Collecting*|Processing*|"Requirement already"*) n=$$((n + 1)); [ $$((n % 20)) != 0 ] || printf ' %s' "$$n" >&2 ;;
	      "Installing collected"*) printf ' unpacking' >&2 ;;
	    esac
	  done
	}
	quietly() { # title, command...: one line on screen, the whole story in the log
	  SECONDS=0
	  printf '%s:' "$$1" >&2
	  shift
	  "$$@" 2>&1 | tee -a $$log | progress || {
	    printf ' failed\n' >&2; grep -E 'ERROR|rror:' $$log | tail -3 >&2; echo "see $$log; then run make again" >&2; exit 2
	  }
	  printf ' done (%s s)\n' "$$SECONDS" >&2
	}
	[ -x $(BIN)/python ] || $(PYTHON) -m venv .venv || {
	  echo "$(PYTHON) could not make .venv; install its venv module (Debian: apt install python3-venv)" >&2
	  exit 2
	}
	rm -f .venv/.demo-* .venv/.dev-* $$log
	quietly "[1/2] installing $$(grep -c == $(LOCK)) locked packages into .venv (a few minutes the first time)" \
	  $(BIN)/python -m pip install --no-compile --progress-bar off -r $(LOCK)
	quietly "[2/2] installing himari_rl itself" \
	  $(BIN)/python -m pip install --no-deps --no-build-isolation -e .
	touch $@ $(DEMO)

# Not in CI: pip-audit asks a database on the network. What no database can tell, the hashes of requirements-serve.txt do.
audit:
	@[ -x .venv-audit/bin/pip-audit ] || { $(PYTHON) -m venv .venv-audit; .venv-audit/bin/pip install -q bandit pip-audit; }
	.venv-audit/bin/bandit -q -c pyproject.toml -r src cloud_run vertex_training monitoring testing run_layer3_gcp.py \
	  2> >(grep -v WARNING >&2) # it takes the reason behind a nosec for names of its tests
	.venv-audit/bin/pip-audit --disable-pip --require-hashes -r requirements-serve.txt

# The CPU build of torch is enough, so its CUDA companions stay out of the lock, and so does the local tag of the build
# that answered: `torch==2.13.0` is met by the CPU wheel and by the one on PyPI alike.
PORTABLE := sed -E -i.bak -e '/^himari-rl/d' -e '/^(nvidia-|cuda-|triton)/d' -e 's/\+cpu//'
COMPILE := .venv-lock/bin/pip-compile --quiet --strip-extras --allow-unsafe --no-header --annotation-style=line \
  --no-emit-find-links --no-emit-index-url --no-emit-trusted-host --no-emit-options

# The cloud's resolution comes first, since its SDK is the pickiest; the others take its versions.
lock:
	@[ -x .venv-lock/bin/pip-compile ] || { $(PYTHON) -m venv .venv-lock; .venv-lock/bin/pip install -q pip-tools; }
	$(COMPILE) $(UPGRADE) --extra train --extra judge --extra gcp -o requirements-gcp.txt pyproject.toml
	$(PORTABLE) requirements-gcp.txt
	$(COMPILE) $(UPGRADE) --extra dev -c requirements-gcp.txt -o requirements.lock pyproject.toml
	$(PORTABLE) requirements.lock
	$(COMPILE) $(UPGRADE) --extra train --extra judge --extra serve --build-deps-for editable -c requirements.lock \
	  -o requirements-demo.lock pyproject.toml
	$(PORTABLE) requirements-demo.lock
	$(COMPILE) $(UPGRADE) --generate-hashes --extra serve --extra fast --extra gcs -c requirements.lock \
	  -o requirements-serve.txt pyproject.toml
	rm -f requirements*.bak

clean:
	@rm -rf .venv .venv-lock .venv-audit .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
