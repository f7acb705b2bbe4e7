# What people run here. Each target installs what it needs and this machine lacks (scripts/setup.sh).
# Build output goes outside the tree, so that every checkout of one user shares it.
export CARGO_TARGET_DIR ?= $(HOME)/.cache/sluice/target

# What `make run`, `make build` and `make bench` share, so that it is built once.
PROFILE ?= release
CARGO ?= cargo
# Workspaces of their own, built for wasm32.
GUESTS = plugins sdk/rust tests/guests
SLUICE = $(CARGO_TARGET_DIR)/$(PROFILE)/sluice
# Calls of one instance; a tenth as many instances are made anew.
SOAK_CALLS ?= 10000000
# Of each target.
FUZZ_SECONDS ?= 600

.DEFAULT_GOAL := help
.PHONY: help run build plugins test test-cluster conformance lint check bench bench-plugins bench-cluster judge soak fuzz generate image deny cluster-up cluster-down

help: ## Say what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 20

run: plugins ## The quickstart: gateway on 8080 and 8443, with its demo backends
	$(CARGO) build --locked --profile $(PROFILE) -p sluice
	@scripts/quickstart.sh $(SLUICE)

build: plugins ## The release binary (fat LTO; takes its time)
	$(CARGO) build --locked --profile $(PROFILE) -p sluice
	@echo "$(SLUICE)"

plugins: ## The plugins, as WebAssembly components
	@scripts/setup.sh
	scripts/install-plugins.sh

lint: ## Formatting, and clippy without mercy
	@scripts/setup.sh fmt clippy
	$(CARGO) fmt --all --check
	@set -e; for guests in $(GUESTS); do echo "cargo fmt --check in $$guests"; \
		$(CARGO) fmt --all --check --manifest-path $$guests/Cargo.toml; done
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

test: lint plugins ## Everything but the cluster
	@scripts/setup-authors.sh
	@scripts/setup-envoy.sh >/dev/null
	@scripts/setup-redis.sh >/dev/null
	$(CARGO) test --locked --workspace
	$(CARGO) test --locked --manifest-path plugins/Cargo.toml
	$(CARGO) test --locked --manifest-path sdk/rust/Cargo.toml
	$(MAKE) --no-print-directory check
	@echo "make test: all passed. Not included: make test-cluster, and make bench."

test-cluster: ## On a real Kubernetes cluster, which it brings up and takes down (Linux, root, Go)
	@tests/cluster/test

conformance: ## The Gateway API's own suite, all profiles, on such a cluster; part of test-cluster
	@tests/cluster/test conformance

check: plugins ## Every example, by sluice check
	$(CARGO) build --locked --workspace --bin sluice
	@set -e; for example in deploy/examples/*/; do \
		echo "sluice check $$example"; "$(CARGO_TARGET_DIR)/debug/sluice" check "$$example"; done

bench: plugins ## Against bare Pingora, nginx, HAProxy and Envoy; needs a quiet machine
	tests/bench/run

bench-plugins: ## What each policy costs a request, to docs/benchmarks-plugins.md; needs a quiet machine
	@scripts/setup.sh
	$(CARGO) bench --locked -p sluice-tests --bench plugins -- --document

bench-cluster: build ## On a real cluster: how soon changes are served, what many routes cost; needs a quiet machine
	SLUICE_BIN=$(SLUICE) tests/cluster/test bench

judge: build ## Reloads and misbehaving plugins under load, by their figures; needs a quiet machine
	SLUICE_JUDGED=1 SLUICE_BIN=$(SLUICE) $(CARGO) test --locked -p sluice-tests --test e2e -- reload_under_load --nocapture --test-threads 1
	SLUICE_JUDGED=1 SLUICE_BIN=$(SLUICE) $(CARGO) test --locked -p sluice-tests --test chaos -- --nocapture --test-threads 1

soak: plugins ## Ten million calls of one instance and a million fresh ones, by each ABI of plugins, that leave nothing behind; 15 minutes
	SOAK_CALLS=$(SOAK_CALLS) $(CARGO) test --locked --workspace --test host -- soak --nocapture --test-threads 1

fuzz: plugins ## Hostile plugins against the host's functions of both ABIs: three targets, FUZZ_SECONDS each (600)
	FUZZ_SECONDS=$(FUZZ_SECONDS) $(CARGO) test --locked --workspace --test host -- fuzzed --nocapture --test-threads 1

generate: ## Writes the files that are generated: CRDs, docs/problems.md, docs/reasons.md, deploy/manifests, plugins' schemas and tables
	UPDATE=1 $(CARGO) test --locked -p sluice-resources crds
	SLUICE_UPDATE_SCHEMA=1 $(CARGO) test --locked --manifest-path plugins/Cargo.toml schema_json
	UPDATE=1 $(CARGO) test --locked -p sluice-tests --test docs
	tests/cluster/cluster build helm
	PATH="$${XDG_CACHE_HOME:-$$HOME/.cache}/sluice/cluster/bin:$$PATH" UPDATE=1 $(CARGO) test --locked -p sluice-tests --test cluster -- --ignored the_plain_manifests

image: ## The container image sluice:VERSION, with docker buildx
	docker buildx build -f deploy/docker/Dockerfile -t sluice:$$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml) --load .

deny: ## Licences and advisories of all dependencies
	@command -v cargo-deny >/dev/null || $(CARGO) install --locked cargo-deny
	$(CARGO) deny check

cluster-up: ## A Kubernetes cluster on this machine, for tests (Linux, root, Go); CLUSTER="--nodes 2" adds options
	tests/cluster/cluster up $(CLUSTER)

cluster-down: ## Take it down again
	tests/cluster/cluster down
