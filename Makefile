# One door for people and for CI: `make` lists what there is.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

LAB := scripts/lab/lab
CARGO ?= cargo
# Tests need root: network namespaces, mounts in the lab's nodes.
ifneq ($(shell id -u),0)
export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER := sudo -E
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER := sudo -E
endif
FEATURES := --features fault-injection
# All shell in the repository, by its first line (. is the comment's sign, which makes disagree on).
SCRIPTS := $(shell git ls-files 2>/dev/null | xargs -r awk 'FNR == 1 && /^.!.*[\/ ](ba)?sh$$|^. shellcheck shell=/ { print FILENAME } FNR == 1 { nextfile }')

.PHONY: $(shell grep -oE "^[a-z0-9-]+:" $(MAKEFILE_LIST) | tr -d :)

help: ## this list
	@grep -E '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: ## install the Debian packages that build, lab and tests need
	@$(LAB) install

build: setup ## build the driver (target/release/rbd-csi)
	$(CARGO) build --release --locked

demo: ## the driver's whole job on a real Ceph and a real krbd node, with comments
	@scripts/demo

test: setup ## all tests, on a real Ceph and real krbd nodes
	@scripts/test

soak: setup ## the tests with every kill, order and round, not a sample (two hours)
	@SWEEP=full scripts/test controller plugin moments

check: setup format lint docs deny shellcheck dockerfile-check manifests-check test conformance ## all that CI runs

format: ## is the code formatted?
	$(CARGO) fmt --check

lint: setup ## clippy without warnings
	$(CARGO) clippy --locked --all-targets $(FEATURES) -- -D warnings
	$(CARGO) clippy --locked -- -D warnings

docs: setup ## the API's documentation, without warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps --document-private-items

deny: ## licences, sources and duplicates of the dependencies
	@scripts/tool cargo-deny
	$(CARGO) deny --locked check bans licenses sources

audit: ## known vulnerabilities of the dependencies (needs their database)
	@scripts/tool cargo-deny
	$(CARGO) deny --locked check advisories

shellcheck: setup ## the shell scripts
	shellcheck -x $(SCRIPTS)

manifests: setup ## the plain manifests in deploy/, from the Helm chart
	@scripts/manifests write

manifests-check: setup ## are they the chart's, and valid, also with other values?
	@scripts/manifests check

dockerfile-check: ## the Dockerfile, by hadolint
	@scripts/dockerfile-check

reference: setup ## docs/parameters.md and docs/flags.md anew from the code
	WRITE_REFERENCE=1 $(CARGO) test --locked $(FEATURES) --test reference

conformance: setup ## our CSI messages against the published ones, and csi-sanity (needs Go)
	@scripts/conformance
	@scripts/sanity

sanity: setup ## csi-sanity alone
	@scripts/sanity

e2e: setup ## all end-to-end tests: the driver on a real Kubernetes (needs Go once)
	@scripts/e2e

e2e-short: setup ## the user's path only: deploy, claim, pod, snapshot, restore, growth, teardown
	@scripts/e2e short

e2e-storage: setup ## Kubernetes' own storage suite; writes docs/e2e-storage.md
	@scripts/e2e storage

bench: setup ## operations, rates and memory, as a table (docs/benchmark.md keeps the last)
	@scripts/bench

image: setup ## the container image as a docker-archive, without a registry (target/image/rbd-csi.tar)
	@scripts/image

lab: setup ## a Ceph and a krbd node to play with, and how to reach them
	@$(LAB) play

k8s-lab: setup ## the same with a Kubernetes of two nodes (needs Go; the first time 10 minutes)
	@$(LAB) install --kubernetes
	@$(LAB) play --nodes 2 --kubernetes

lab-down: ## end every lab of this checkout
	@$(LAB) down --all

clean: lab-down ## remove what was built
	$(CARGO) clean
