# leadctl: `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# More than a small machine has cores: the long tests wait for emulated vendors most of the time.
WORKERS ?= 3
# Tests start leadctl thousands of times: compiled modules are kept, whatever the environment says.
PYTEST = env -u PYTHONDONTWRITEBYTECODE PATH="$$PATH:/usr/sbin:/sbin" \
  $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
SYSTEM_PACKAGES := postfix sasl2-bin libsasl2-modules zsh fish bash postgresql mariadb-server \
  iproute2 php-cli php-sqlite3 php-pgsql php-mysql php-illuminate-database php-illuminate-encryption

.DEFAULT_GOAL := help
.PHONY: help demo test everywhere check mutants soak bench generate format system clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.runtime ## Set up and show all of it on emulated vendors, in a minute
	@$(BIN)/leadctl demo

test: $(VENV)/.dev system check ## Set up, check and run every test
	$(PYTEST) $(ARGS)

everywhere: $(VENV)/.dev system ## Run the tests of whole commands on PostgreSQL and on MariaDB too, not only on a file
	for server in postgresql mariadb; do export LEADCTL_TESTS_ON=$$server; $(PYTEST) tests/e2e $(ARGS) || exit 1; done

check: $(VENV)/.dev ## Format, lint, types, import contracts, freshness of generated files
	$(BIN)/ruff format --check leadctl tests benchmarks
	$(BIN)/ruff check leadctl tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m leadctl.cli.reference --check

soak: $(VENV)/.dev ## Kill 200 bulk runs of 1,000 leads at random times, and print what was lost or sent twice
	$(BIN)/python -m tests.crash.kills $(ARGS)

mutants: $(VENV)/.dev ## Change the code that decides, place by place: the tests must notice each
	$(BIN)/python -m tests.mutation $(ARGS)

bench: $(VENV)/.dev ## Measure speed as ratios against bare loops in the same run
	$(BIN)/python -m benchmarks

generate: $(VENV)/.dev ## Write completions, config.example.toml and README's reference anew
	$(BIN)/python -m leadctl.cli.reference --write

format: $(VENV)/.dev ## Format the code and mend what ruff can mend
	$(BIN)/ruff format leadctl tests benchmarks
	$(BIN)/ruff check --fix leadctl tests benchmarks

# What the tests try for real: a mail server, two database servers, Laravel and three shells. As root on Debian they
# are installed; elsewhere the tests that need a missing one say so.
system:
	@missing=; for tool in postfix saslpasswd2 zsh fish bash initdb mariadbd mariadb-install-db php ip; do \
	  PATH="$$PATH:/usr/sbin:/sbin:$$(echo /usr/lib/postgresql/*/bin | tr ' ' :)" command -v $$tool >/dev/null || missing="$$missing $$tool"; done; \
	[ -d /usr/share/php/Illuminate/Encryption ] || missing="$$missing laravel"; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	  echo "installing for the tests:$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(SYSTEM_PACKAGES) >/dev/null; \
	else \
	  echo "not installed, tests that need them are skipped:$$missing (Debian: apt-get install $(SYSTEM_PACKAGES))"; \
	fi

$(VENV)/.runtime: pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) install -c constraints.txt hatchling editables
	@$(PIP) install -c constraints.txt --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@$(PIP) install -c constraints.txt --no-build-isolation -e '.[dev,postgresql,mysql,fleet-dev]'
	@touch $@

clean: ## Remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
