# Everything a person or a machine does with this repository. `make` alone lists it.
#
# Labs (demo, test, bench) boot machines in namespaces and need root; the rest does not, once scripts/setup.sh has
# found or installed Debian's packages.

SHELL = /bin/sh
CARGO ?= cargo
# cargo-deny is installed here when the host has none: nothing outside the checkout changes.
TOOLS := target/tools
DENY_VERSION := 0.20.2
# Empty, or a filter of cargo-nextest: make test FILTER='test(/^p1_/)'.
FILTER ?=
# For each fuzz target.
FUZZ_SECONDS ?= 30
# Of make install: DESTDIR stages it elsewhere, as a package does.
DESTDIR ?=
PREFIX ?= /usr
# Of make deb: what follows Cargo's version, and how the packages are packed.
REVISION ?= 1
COMPRESS ?= xz

.DEFAULT_GOAL := help
.PHONY: help setup build man install deb lint-deb demo next test fuzz bench lint audit fmt clean-labs

help: ## List what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## Install the packages that building and labs need (root, Debian; nothing to do: no root, no network)
	@scripts/setup.sh

build: setup ## Release binaries fleetd, fleetctl, fleet-lab and others in target/release
	$(CARGO) build --release --locked --bins -p fleetd -p fleetctl -p fleet-tests

man: build ## The manual pages in target/man, from the grammars of fleetctl and fleetd
	@rm -rf target/man && mkdir -p target/man
	target/release/fleet-man target/man

# Builds nothing, so that it can be run as root after a build by somebody else.
install: ## What make build has built, with the files of a service, below DESTDIR and PREFIX (/usr)
	@DESTDIR="$(DESTDIR)" PREFIX="$(PREFIX)" scripts/install.sh

# Those of other versions go: whoever installs, or checks, target/debian/fleet*.deb means these.
deb: build ## Debian packages fleetd and fleetctl in target/debian
	@rm -f target/debian/fleet*.deb
	@REVISION="$(REVISION)" COMPRESS="$(COMPRESS)" scripts/deb.sh

# Asked for before the build: nothing else needs lintian, so scripts/setup.sh does not install it.
lint-deb: ## lintian on what make deb makes, the only target that needs it; errors fail
	@command -v lintian >/dev/null || { echo "make lint-deb: install Debian's package lintian" >&2; exit 1; }
	@$(MAKE) --no-print-directory deb
	lintian --fail-on error target/debian/fleet*.deb

demo: build ## Three machines, a real etcd, and the whole story with measured times (root)
	target/release/fleet-demo

# Everything is asked for with the features and development dependencies of `make test`, which an example brings along:
# so only the crates of fleetd are compiled once more.
next: ## target/debug/fleetd-next, the fleetd of a release to come, for the test of rolling upgrades
	$(CARGO) build --workspace --locked --features fleetd/next-records --bin fleetd-next --example embedded_put

# The labs run the binaries that lie beside the tests, so these are built first. All targets at once: a build of the
# binaries alone would compile the dependencies a second time, with other features. Documentation tests and fuzzing come
# first, so that the summary of the runner closes the output; what fuzzing broke fails the whole at its end.
test: setup ## Every test; those in labs need root
	@[ "$$(id -u)" = 0 ] || { echo "make test: the tests boot machines: run it as root, or leave those out: cargo test --workspace --exclude fleet-tests" >&2; exit 1; }
	$(CARGO) build --workspace --all-targets --locked
	@$(MAKE) --no-print-directory next
	$(CARGO) test --workspace --doc --locked --quiet
	@broken=0; $(if $(FILTER),:,CARGO=$(CARGO) scripts/fuzz.sh $(FUZZ_SECONDS)) || broken=1; \
	if $(CARGO) nextest --version >/dev/null 2>&1; then \
	    set -x; $(CARGO) nextest run --workspace --all-targets --locked --no-fail-fast $(if $(FILTER),-E '$(FILTER)'); \
	else \
	    set -x; $(CARGO) test --workspace --all-targets --locked --no-fail-fast -- --test-threads=2; \
	fi && exit $$broken

fuzz: setup ## Every fuzz target for 30 seconds (FUZZ_SECONDS), from the corpora in fuzz/corpus
	@CARGO=$(CARGO) scripts/fuzz.sh $(FUZZ_SECONDS)

bench: build ## The figures of docs/development/benchmarks.md, each also as target/bench/NAME.json (root)
	target/release/fleet-bench

lint: setup ## Formatting, clippy with warnings as errors, syntax of the scripts
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	for script in scripts/*.sh .ci/run packaging/debian/*.p*; do sh -n "$$script" || exit 1; done

audit: ## Licences, bans and sources of all dependencies (installs cargo-deny into target/tools when missing)
	@PATH="$(CURDIR)/$(TOOLS)/bin:$$PATH"; \
	command -v cargo-deny >/dev/null || $(CARGO) install --locked --version $(DENY_VERSION) --root $(TOOLS) cargo-deny; \
	set -x; cargo-deny --locked check licenses bans sources

fmt: ## Format all crates
	$(CARGO) fmt --all

clean-labs: ## End every lab that runs on this host and remove what it left (root)
	@lab=target/release/fleet-lab; [ -x $$lab ] || lab=target/debug/fleet-lab; \
	[ -x $$lab ] || { echo "make clean-labs: no fleet-lab is built, so no lab of this checkout runs" >&2; exit 0; }; \
	$$lab list | cut -f1 | while read -r name; do $$lab down --name "$$name"; done
