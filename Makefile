# `make help` lists what can be done. Everything runs from a clean clone: Go fetches
# its own toolchain and modules, and what Debian packages the tests need is installed
# where it is missing.

GO           ?= go
STATICCHECK  ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK  ?= golang.org/x/vuln/cmd/govulncheck@v1.9.0
PACKAGES     ?= ./...
TEST_FLAGS   ?=
FUZZ_TIME    ?= 30s

# How long a package's tests may take before they count as hanging. A busy machine has
# to stay far below it.
TEST_TIMEOUT ?= 45m

# Real servers for the tests (the race detector needs a C compiler), and a load
# generator for the benchmark.
TEST_DEBS  = gcc libc6-dev redis-server mariadb-server libfaketime
BENCH_DEBS = redis-server mariadb-server wrk

# The packages with tests of the cluster tier.
CLUSTER_PACKAGES ?= ./internal/testenv ./loadtest/...

# A tier says what it runs, and ends with what failed and why.
TIER    = @sh internal/testenv/gotest.sh $@
# What the documents promise within a time is measured; a long run keeps the figures.
TIMINGS = $(CURDIR)/loadtest/timings.ndjson

.DEFAULT_GOAL := help
.PHONY: help build run test test-short test-cluster test-long fuzz lint vuln image bench deps

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./bin/flashgate
	$(GO) build -trimpath -o bin/flashgate .

run: ## everything in one process on loopback, nothing to install
	$(GO) run . dev

deps:
	@sh internal/testenv/install.sh $(TEST_DEBS)

test: deps ## what a change could break, with the race detector, against real servers
	$(TIER) "all but the cluster and the long tests" $(GO) test -race -p 2 -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(PACKAGES)

test-short: ## only the tests that need no servers
	$(TIER) "the tests that need no servers" $(GO) test -short -timeout 10m $(TEST_FLAGS) $(PACKAGES)

test-cluster: deps ## the tests that need several servers of a kind: Sentinel, Redis Cluster
	$(TIER) "Redis Sentinel and Redis Cluster" env TEST_CLUSTER=1 $(GO) test -race -p 1 -run '^TestCluster' -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(CLUSTER_PACKAGES)

test-long: deps ## everything, promised times held to the letter, and each fuzz target for a while
	$(TIER) "all tests, timings into $(TIMINGS)" env TEST_LONG=1 TEST_TIMINGS=$(TIMINGS) $(GO) test -race -count 1 -p 1 -timeout 120m $(TEST_FLAGS) $(PACKAGES)
	@$(MAKE) --no-print-directory fuzz

fuzz: ## each fuzz target for FUZZ_TIME
	@set -eu; for pkg in $$($(GO) list $(PACKAGES)); do \
		for target in $$($(GO) test -short -list '^Fuzz' "$$pkg" | grep '^Fuzz' || true); do \
			echo "$$pkg $$target"; \
			$(GO) test -short -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZ_TIME) "$$pkg"; \
		done; \
	done

lint: ## gofmt, go vet, staticcheck
	@unformatted=$$(gofmt -l .); if [ -n "$$unformatted" ]; then echo "not in gofmt's form:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet -tags bench $(PACKAGES)
	$(GO) run $(STATICCHECK) -tags bench $(PACKAGES)

vuln: ## known vulnerabilities in what is called; says so where their database cannot be reached
	@sh internal/testenv/vuln.sh $(GO) run $(GOVULNCHECK) $(PACKAGES)

image: ## the steps of the Dockerfile, without an engine
	@sh internal/testenv/image.sh

bench: ## orders per second beside a bare server, on this machine
	@sh internal/testenv/install.sh $(BENCH_DEBS)
	$(GO) test -tags bench -count 1 -run TestBench -v -timeout 60m ./loadtest/bench $(BENCH_FLAGS)
	$(GO) test -tags bench -count 1 -run TestBench -v -timeout 60m ./loadtest/bench $(BENCH_FLAGS) -delay 1ms
