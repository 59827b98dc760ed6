# PneumoScan. `make` alone lists what there is. Variables can be given on the command line: make demo WEIGHTS=random

VENV    ?= .venv
PY      := $(VENV)/bin/python
DATA    ?= data/toy
RUN     ?= runs/demo
VERSION ?= 1.0.0
WEIGHTS ?= imagenet
ARCH    ?= resnet152
DEVICE  ?= auto
TRAIN   ?=
CALIBRATE ?=
PORT    ?= 8080
STORE   := model_store
ARCHIVE := $(STORE)/pneumonia-$(VERSION).mar

# The first Python that is new enough; PYTHON= takes another.
PYTHON  ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell $(p) -c 'import sys; sys.version_info >= (3, 11) and print("$(p)")' 2>/dev/null)))

# The synthetic films are made where they are missing; a folder of your own has to be there.
FILMS   := $(filter-out data/toy,$(DATA))

# A PYTHONPATH from outside would put other code before ours; pneumoscan serve refuses it too, but only after the archive is made.
ifneq ($(and $(PYTHONPATH),$(filter serve serve-edge,$(MAKECMDGOALS))),)
$(error PYTHONPATH is set to '$(PYTHONPATH)': TorchServe would serve the code there instead of the archive's. Unset it: env -u PYTHONPATH make serve)
endif
unexport PYTHONPATH
.DELETE_ON_ERROR:
.PHONY: help env lock demo model test test-fast serve serve-edge sbom notice audit web bench bench-peers lint e2e clean FORCE

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Variables: DATA=$(DATA) RUN=$(RUN) VERSION=$(VERSION) WEIGHTS=$(WEIGHTS) ARCH=$(ARCH) TRAIN=$(TRAIN) CALIBRATE=$(CALIBRATE) DEVICE=$(DEVICE) PORT=$(PORT)"

env: $(VENV)/.ready  ## the environment alone

$(VENV)/.ready: requirements.lock pyproject.toml
	@test -n "$(PYTHON)" || { echo "make: no Python 3.11 or newer was found: install one, or give PYTHON=/path/to/python3" >&2; exit 2; }
	@echo "Installing the environment (about 5 GB, mostly torch with CUDA; once)" >&2
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.lock
	$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

# What stands in a lock stays as long as pyproject.toml allows it. The hashes are those that the package index publishes.
COMPILE := uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate pyproject.toml

lock:  ## the two locks from pyproject.toml: what develops and, of the same versions, what serves
	$(COMPILE) --extra dev --output-file requirements.lock
	$(COMPILE) --extra serve --constraint requirements.lock --output-file requirements-serve.lock

# The steps, and what may be left out because it stands: pneumoscan/pipeline.py. A download of the ImageNet weights that
# fails ends `make model`; elsewhere it ends in random weights, and that is said.
OR_RANDOM := --only-imagenet
demo serve serve-edge web bench: OR_RANDOM :=
MODEL = $(PY) -m pneumoscan demo --out $(RUN) $(if $(FILMS),--data $(FILMS)) --weights $(WEIGHTS) --arch $(ARCH) --device $(DEVICE) \
  --version $(VERSION) --store $(STORE) $(if $(TRAIN),--train='$(TRAIN)') $(if $(CALIBRATE),--calibrate='$(CALIBRATE)') $(OR_RANDOM)

$(ARCHIVE): FORCE | $(VENV)/.ready
	$(MODEL) --model-only

FORCE:

model: $(ARCHIVE)  ## films in DATA -> trained, calibrated, measured RUN with its card -> archive VERSION

demo: $(VENV)/.ready  ## everything from nothing, ending in scored films over REST; leaves runs/demo/
	$(MODEL)

serve: $(VENV)/.ready $(if $(wildcard $(STORE)/*.mar),,$(ARCHIVE))  ## TorchServe on the archives in model_store/
	$(PY) -m pneumoscan serve --store $(STORE) --port $(PORT) --device $(DEVICE)

# The edge drains before the server is stopped; PORT is the edge's here, the server's stays on loopback.
serve-edge: PORT = 8443
serve-edge: $(VENV)/.ready $(if $(wildcard $(STORE)/*.mar),,$(ARCHIVE))  ## the same behind nginx with TLS and keys, the only port others reach
	$(PY) -m pneumoscan edge --listen 0.0.0.0:$(PORT) --serve -- --store $(STORE) --device $(DEVICE)

sbom: $(VENV)/.ready  ## what this installation is made of, TorchServe's jars included: sbom.json (CycloneDX)
	$(PY) -m scripts.sbom --out sbom.json --force

notice: $(VENV)/.ready  ## NOTICE: what serves, by name, version and licence
	$(PY) -m scripts.sbom --notice --out NOTICE --force

audit: $(VENV)/.ready  ## known vulnerabilities of the installed packages, or "not checked"
	$(PY) -m scripts.audit

# PORT is the page's here. A server that PNEUMOSCAN_URL names brings its own model.
web: PORT = 8000
web: $(VENV)/.ready $(if $(PNEUMOSCAN_URL)$(wildcard $(STORE)/*.mar),,$(ARCHIVE))  ## the reading page, and a server behind it where none runs
	$(PY) -m pneumoscan web --store $(STORE) --port $(PORT) --device $(DEVICE)

# An archive that is there is measured as it is; else the demo's is made first, which takes longer than the measuring.
BENCH         ?= runs/bench
BENCH_ARCHIVE := $(firstword $(shell ls -t $(STORE)/*.mar 2>/dev/null) $(ARCHIVE))
PEERS         := $(VENV)/peers

bench: $(VENV)/.ready $(if $(wildcard $(STORE)/*.mar),,$(ARCHIVE))  ## a short benchmark of serving, under ten minutes; results in BENCH
	mkdir -p $(BENCH)
	$(PY) -m pneumoscan bench raw --arch $(ARCH) --device $(DEVICE) --batch 2 --repeats 5 --out $(BENCH)/raw.json --force
	$(PY) -m pneumoscan bench cam --arch $(ARCH) --device $(DEVICE) --rounds 7 --out $(BENCH)/cam.json --force
	$(PY) -m pneumoscan bench decode --rounds 15 --out $(BENCH)/decode.json --force
	$(PY) -m pneumoscan bench serve --archive $(BENCH_ARCHIVE) --device $(DEVICE) --clients 1 4 16 --rate 0.5 0.8 1 3 --seconds 8 \
	  --pairs 16 --rounds 2 --out $(BENCH)/serve.json --plot $(BENCH)/load.png --force
	$(PY) -m pneumoscan bench peers --archive $(BENCH_ARCHIVE) --parts null --rounds 3 --seconds 4 --out $(BENCH)/peers.json --force

bench-peers: $(VENV)/.ready  ## the servers that ours is compared with, in an environment on top of this one
	$(PY) -m venv $(PEERS)
	$(PY) -c "import sysconfig; print('import site; site.addsitedir(%r)' % sysconfig.get_path('purelib'))" > $$($(PEERS)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")/base.pth
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check litserve==0.2.19 bentoml==1.4.40 captum==0.9.0

# Tests that fill the machine or measure times have it for themselves; the others share it, in the order of tests/conftest.py.
test: $(VENV)/.ready  ## all tests that need no GPU
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not gpu and not alone"
	$(PY) -m pytest -m alone

test-fast: $(VENV)/.ready  ## the tests that take two minutes
	$(PY) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not gpu and not slow and not e2e"

e2e: $(VENV)/.ready  ## the tests with a real TorchServe
	$(PY) -m pytest -m e2e

lint: $(VENV)/.ready  ## ruff and mypy; TypeScript and ESLint on the page's scripts where npm is
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy handler training cxr_client pneumoscan scripts benchmarks webapp
	@if command -v npm > /dev/null; then cd webapp && npm ci --silent --no-audit --no-fund && npm run --silent lint; \
	else echo "not installed: npm (apt-get install npm); the page's scripts were not checked" >&2; fi

clean:  ## remove what was made here but the environment, films, runs and archives
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
