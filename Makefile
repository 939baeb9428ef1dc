# Everything that a person or CI does with this repository. `make help` lists it.

PYTHON ?= python3
VENV := .venv
PYTHON_FILES := conftest.py db examples simulator tests tools
# As it was written: make would take a $ in a password for the beginning of a variable.
ifdef DATABASE_URL
override DATABASE_URL := $(value DATABASE_URL)
endif
export DATABASE_URL
ifdef APPLICATION_DATABASE_URL
override APPLICATION_DATABASE_URL := $(value APPLICATION_DATABASE_URL)
endif
export APPLICATION_DATABASE_URL
export EVOLUTION_TABLE
export EVOLUTION_COLUMNS
export EVOLUTION_CONNECTING
export PG
export PG_VERSION

# The shell stops at the first error, also in a pipe.
SHELL := bash
.SHELLFLAGS := -euo pipefail -c

.PHONY: help
help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## */\1\t/' \
		| while IFS=$$'\t' read -r name text; do printf '  make %-19s %s\n' "$$name" "$$text"; done

# A check comes before what it saves, also with make -j.
.NOTPARALLEL:

# Before anything is installed. The name of the command follows.
url-for-%:
	@$(PYTHON) -m db.url $*

.PHONY: demo
demo: $(if $(filter url,$(PG)),url-for-demo) $(VENV)/demo packages-engine ## show the whole job with a simulated Evolution API, in a throw-away PostgreSQL
	@$(VENV)/bin/python -m tools.demo

.PHONY: migrate
migrate: url-for-migrate $(VENV)/operate ## install the job into a database, or upgrade it: DATABASE_URL=postgresql://...
	@$(VENV)/bin/python -m db.deploy migrate

.PHONY: doctor
doctor: url-for-doctor $(VENV)/operate ## check everything that can keep QR codes from being fresh: DATABASE_URL=postgresql://...
	@$(VENV)/bin/python -m db.doctor

.PHONY: watch
watch: url-for-watch $(VENV)/operate ## show the connecting instances and alerts, live until Ctrl-C: DATABASE_URL=postgresql://...
	@$(VENV)/bin/python -m db.watch

.PHONY: foreign-table
foreign-table: url-for-foreign-table $(VENV)/operate ## where the rows are in another, managed database: make evolution_instances of them; APPLICATION_DATABASE_URL=...
	@$(VENV)/bin/python -m db.foreign_table create

.PHONY: demo-live
demo-live: $(VENV)/demo packages-engine ## show the QR codes in a browser as the job keeps them fresh, until Ctrl-C
	@$(VENV)/bin/python -m tools.demo_live

.PHONY: uninstall
uninstall: url-for-uninstall $(VENV)/operate ## remove the job from a database; the application's table stays: DATABASE_URL=postgresql://...
	@$(VENV)/bin/python -m db.deploy uninstall

.PHONY: setup
setup: $(VENV)/dev packages ## install the tools: .venv and missing Debian packages

.PHONY: packages
packages: ## install the Debian packages that tests and demo lack
	@tools/install_packages.sh tests

.PHONY: packages-engine
packages-engine:
	@tools/install_packages.sh engine

# Not part of setup: on a machine with systemd both packages start a service.
.PHONY: packages-monitoring
packages-monitoring: ## install promtool and the exporter, for the tests of monitoring/
	@tools/install_packages.sh monitoring

# The Python tools are three sets: operate is in demo, and demo is in dev. So a set that is installed
# serves what needs a smaller one. A file each, so that it is made anew whenever its versions change.
$(VENV)/operate $(VENV)/demo $(VENV)/dev: $(VENV)/%: requirements/%.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "error: Python 3.11 or newer is needed")'
	@tools/install_packages.sh venv
	@echo "Installing the Python tools of $< into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(VENV)/bin/pip install --quiet --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $(VENV)/operate $(if $(filter demo dev,$*),$(VENV)/demo) $(VENV)/$*

# One set after the other, so that all have the same versions.
.PHONY: lock
lock: ## write the newest versions that pyproject.toml allows into requirements/
	@tools/install_packages.sh venv
	@$(PYTHON) -m venv --clear build/lock
	@build/lock/bin/pip install --quiet --quiet --disable-pip-version-check 'uv>=0.9,<1'
	@for set in dev demo operate; do \
		build/lock/bin/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes \
			--no-annotate --custom-compile-command 'make lock' --group $$set \
			$$([ $$set = dev ] || echo --constraint requirements/dev.txt) --output-file requirements/$$set.txt; \
	done

# Side by side, each with a server of its own: a test waits more than it computes.
PYTEST = $(VENV)/bin/python -m pytest --numprocesses $${WORKERS:-$$((2 * $$(nproc)))} --dist loadfile --no-loadscope-reorder

.PHONY: test
test: $(if $(filter url,$(PG)),url-for-test) setup ## run the fast tests; PG=docker, local or url and PG_VERSION choose the PostgreSQL, ARGS are pytest's
	@$(PYTEST) --fast $(ARGS)

.PHONY: test-all
test-all: $(if $(filter url,$(PG)),url-for-test) setup ## run all tests, also those marked as slow
	@tools/install_packages.sh browser
	@$(PYTEST) $(ARGS)

.PHONY: test-matrix
test-matrix: $(VENV)/dev ## run the tests on each version of PostgreSQL, in containers, before a release
	@MAKE='$(MAKE)' tools/test_matrix.sh

.PHONY: fuzz
fuzz: $(VENV)/dev ## try what reads the answers on FUZZ_EXAMPLES=10000 made-up ones
	@FUZZ_EXAMPLES=$${FUZZ_EXAMPLES:-10000} $(VENV)/bin/python -m pytest tests/http/test_read_answer_fuzz.py

.PHONY: bench
bench: $(VENV)/dev packages-engine ## measure the job beside a bare asyncio client and the sequential way, as ratios; BENCH_ROUNDS=3
	@$(VENV)/bin/python -m tools.bench

.PHONY: freshness
freshness: $(VENV)/dev packages-engine ## measure for FRESHNESS_SECONDS=300 how often the stored QR code is the one that works
	@$(VENV)/bin/python -m tools.freshness

.PHONY: crowds
crowds: $(VENV)/dev packages-engine ## measure what other instances notice of a crowd of rows that nobody can serve
	@$(VENV)/bin/python -m tools.crowds

.PHONY: far
far: $(VENV)/dev packages-engine ## measure live mode where the rows are FAR_ROUND_TRIP=30 ms away and FAR_SERVERS=1 share them
	@$(VENV)/bin/python -m tools.far

.PHONY: harm
harm: $(VENV)/dev packages-engine ## measure how many of HARM_INSTANCES=1000 scans a poll hits, at HARM_ROUND_TRIPS="1 5 50 200" ms
	@$(VENV)/bin/python -m tools.harm

.PHONY: idle
idle: $(VENV)/dev packages-engine ## measure what a minute of live mode costs when nothing is due
	@$(VENV)/bin/python -m tools.idle

.PHONY: growth
growth: $(VENV)/dev packages-engine ## print how large the tables are after GROWTH_DAYS=7 of live mode with GROWTH_INSTANCES=10
	@$(VENV)/bin/python -m tools.growth

.PHONY: lint
lint: $(VENV)/dev dist ## check Python, the Python inside the SQL, the SQL and the scripts
	@tools/install_packages.sh lint
	$(VENV)/bin/python -m tools.derive_python_bodies build
	$(VENV)/bin/ruff check $(PYTHON_FILES) build
	$(VENV)/bin/ruff format --check $(PYTHON_FILES)
	$(VENV)/bin/mypy $(PYTHON_FILES) build
	$(VENV)/bin/sqlfluff lint --disable-progress-bar db examples
	@# pgspot sees the whole installation, in its order and with its search_path. Not asked for:
	@# PS002, because `create or replace` is how functions are deployed; privileges.sql sets the owner
	@# in the same transaction. PS010, because dbmate creates its schema before the migrations.
	@# qr_refresh.live() commits, which a procedure with a search_path of its own cannot; three more
	@# are planned together with the queries that ask them, and name the schema of all they use.
	@# It fails on a DO block in PL/Python and has no option for that, so those are left out.
	sed '/^do language plpython3u \$$\$$$$/,/^\$$\$$;$$/d' dist/qr_refresh.sql > build/pgspot.sql
	$(VENV)/bin/pgspot --ignore PS002 --ignore PS010 --ignore-lang plpython3u \
		--proc-without-search-path 'qr_refresh.live(worker integer,workers integer)' \
		--proc-without-search-path 'qr_refresh.instance_key(evolution_server text,instance_name text,instance_token text)' \
		--proc-without-search-path 'qr_refresh.is_share_of(instance bytea,worker integer,workers integer)' \
		--proc-without-search-path 'qr_refresh.connecting_rows(without_qr_code boolean,instance bytea,instance_name text,instance_token text,evolution_server text,last_qr_update timestamptz)' \
		build/pgspot.sql
	shellcheck .ci/run docker-entrypoint.sh tools/*.sh
	@# Secrets in what could be committed, but for the made-up ones of examples, tests and captures.
	find . \( -path ./.git -o -path ./$(VENV) -o -path ./requirements -o -path ./.env -o -path ./build -o -path ./dist \
		-o -name '.*_cache' -o -name .hypothesis -o -name __pycache__ \) -prune -o -type f -print0 \
		| xargs --null $(VENV)/bin/detect-secrets-hook --no-verify --exclude-lines '^ETag: ' \
		--exclude-secrets '^(secret|a-secret|password|nope|THE-GLOBAL-KEY|TOKEN-[a-z0-9-]+|token-of-0)$$' \
		--exclude-secrets '^502E9013-C6F2-4C4B-B352-41D7DCF367BD$$'

.PHONY: audit
audit: lint ## lint, and look for known vulnerabilities of the Python tools at PyPI
	@# pip-audit takes an unreachable PyPI for packages that are not there.
	@$(VENV)/bin/python -c 'import requests; requests.get("https://pypi.org/pypi/pip/25.1/json", \
		timeout=20).raise_for_status()' 2> /dev/null || { echo "error: PyPI's list of vulnerabilities" \
		"(https://pypi.org/pypi/NAME/VERSION/json) cannot be read from here: no package was checked"; exit 1; }
	$(VENV)/bin/pip-audit --strict --local --progress-spinner off

.PHONY: format
format: $(VENV)/dev ## format Python and SQL
	$(VENV)/bin/ruff check --fix --select I $(PYTHON_FILES)
	$(VENV)/bin/ruff format $(PYTHON_FILES)
	$(VENV)/bin/sqlfluff fix --disable-progress-bar --quiet db examples

.PHONY: dist
dist: $(VENV)/operate ## write dist/qr_refresh.sql, the whole installation as one SQL file
	@$(VENV)/bin/python -m db.deploy dist

.PHONY: release
release: $(VENV)/operate ## write dist/qr_refresh-VERSION.sql, and the same for migration tools, with checksums
	@$(VENV)/bin/python -m db.dist release

.PHONY: base-image
base-image: ## make the Debian image that PG_VERSION=17 is built on where no registry can be reached (as root)
	@tools/make_base_image.sh

.PHONY: clean
clean: ## remove everything that make has made here
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
