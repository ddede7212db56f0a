# `make run` shows hmacfs at work; `make test` and `make lint` are what a change has to pass.

VENV ?= .venv
# Where the printed curl line sends its file; config.toml says where hmacfs listens.
URL ?= http://127.0.0.1:8080
# Which Python makes $(VENV): the newest one found that is new enough.
PYTHON ?= $(firstword $(foreach python,python3.13 python3.12 python3.11 python3.10 python3,\
	$(shell $(python) -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
		&& command -v $(python))))

.PHONY: help run test lint fuzz bench format man docs dist deb deb-test peers-test clean
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

help:
	@echo 'make run     start hmacfs here, with a curl line to try it (Ctrl-C ends it)'
	@echo 'make test    all tests, on the newest Twisted and on Debian'"'"'s'
	@echo 'make lint    ruff, mypy, import-linter'
	@echo 'make fuzz    some ten thousand examples against each parser and against the whole request path'
	@echo 'make bench   hmacfs beside nginx, Prosody and ejabberd, into docs/benchmarks.md (ten minutes)'
	@echo 'make format  let ruff lay out the code'
	@echo 'make man     manual page and completion for bash, in build/'
	@echo 'make docs    the documentation as pages, in build/docs/'
	@echo 'make dist    source archive and wheel, in dist/'
	@echo 'make deb     Debian packages for the release that runs here, in dist/deb/ (apt-get build-dep . brings what it needs)'
	@echo 'make deb-test  installs, uses, upgrades, removes and purges them in a clean root (as root on Debian)'
	@echo 'make peers-test  some of the tests, with Debian 13'"'"'s Prosody, ejabberd and Redis (as root on Debian)'
	@echo 'make clean   remove everything that the others have made, except data/'

run: $(VENV)/.installed data/secret
	@echo 'Upload a file, and get it back:'
	@$(VENV)/bin/hmacfs sign --config config.toml --base-url $(URL) --curl README.md README.md "$$(wc -c < README.md)"
	@exec $(VENV)/bin/twistd -n --pidfile= hmacfs -c config.toml

# TESTS="tests.web tests.e2e.test_curl" runs a part; REPORT=FILE keeps the last line.
test: $(VENV)/.developing
	@$(VENV)/bin/python -m tests.run $(if $(REPORT),--report $(REPORT)) $(TESTS)

lint: $(VENV)/.developing
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# FUZZ="--target connections --examples 1000000 --seed mine --jobs 2" is a campaign of your own.
fuzz: $(VENV)/.developing
	$(VENV)/bin/python -m tests.fuzz $(FUZZ)

# BENCH="--quick" only shows that it runs; BENCH="--help" says what else there is.
bench: $(VENV)/.developing
	$(VENV)/bin/python -m bench $(if $(BENCH),$(BENCH),--write docs/benchmarks.md)

format: $(VENV)/.developing
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

# TOOLS=python3 takes that interpreter, if it has what hmacfs needs.
man: $(if $(TOOLS),,$(VENV)/.installed)
	mkdir -p build/man build/completion
	$(or $(TOOLS),$(VENV)/bin/python) -m hmacfs.cli.manual > build/man/hmacfs.1
	$(or $(TOOLS),$(VENV)/bin/python) -m hmacfs.cli.completing > build/completion/hmacfs.bash

docs: $(VENV)/.developing
	$(VENV)/bin/mkdocs build --quiet

dist: $(VENV)/.developing
	rm -f dist/hmacfs-*
	contrib/dist/build dist $(VENV)/bin/python

TXREDISAPI = build/deb/txredisapi-1.6.0.tar.gz

deb: $(TXREDISAPI)
	rm -rf dist/deb
	contrib/debian/build dist/deb $(TXREDISAPI)

$(TXREDISAPI): $(VENV)/.installed
	@mkdir -p build/deb
	@$(VENV)/bin/pip download --quiet --disable-pip-version-check --no-deps --no-binary :all: \
		--dest build/deb txredisapi==1.6.0

# RELEASE=trixie builds and tests in clean roots of that release. REPORT=FILE keeps the last line.
deb-test: $(if $(RELEASE),$(TXREDISAPI),deb)
	$(VENV)/bin/python -m tests.package $(if $(REPORT),--report $(REPORT)) \
		$(if $(RELEASE),--release $(RELEASE) --build $(TXREDISAPI),dist/deb/*.deb)

# RELEASE=sid takes those of that release. REPORT=FILE keeps the last line.
peers-test: $(VENV)/.developing
	$(VENV)/bin/python -m tests.package.peers $(if $(RELEASE),--release $(RELEASE)) $(if $(REPORT),--report $(REPORT))

clean:
	rm -rf $(VENV) .venv-debian .venv-24.11 build dist *.egg-info _trial_temp* .hypothesis .node .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
	rm -f twisted/plugins/dropin.cache

data/secret:
	@mkdir -p data
	@umask 077 && head -c 32 /dev/urandom | od -A n -t x1 | tr -d ' \n' > $@

$(VENV)/bin/python:
	@test -n '$(PYTHON)' || { echo 'make: no Python 3.10 or newer with venv found; name one: make PYTHON=/path/to/python3' \
		'(Debian: apt install python3-venv)' >&2; exit 1; }
	@echo 'Making $(VENV) with $(PYTHON): once, half a minute.'
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python setup.cfg pyproject.toml
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.developing: $(VENV)/bin/python setup.cfg pyproject.toml
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.installed
