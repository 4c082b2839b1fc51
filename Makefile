# `make help` lists what can be done. Everything runs from a clean clone: Go fetches
# its own toolchain and modules, and what Debian packages the tests need is installed
# where it is missing.

GO           ?= go
STATICCHECK  ?= honnef.co/go/tools/cmd/staticcheck@v0.8.2
PACKAGES     ?= ./...
TEST_FLAGS   ?=
TEST_TIMEOUT ?= 12m
FUZZ_TIME    ?= 30s

# Real servers for the tests (the race detector needs a C compiler), and a load
# generator for the benchmark.
TEST_DEBS  = gcc libc6-dev redis-server mariadb-server haproxy
BENCH_DEBS = redis-server mariadb-server wrk

.DEFAULT_GOAL := help
.PHONY: help build run test test-short test-long fuzz lint bench deps

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./bin/flashgate
	$(GO) build -trimpath -o bin/flashgate .

run: ## everything in one process on loopback, nothing to install
	$(GO) run . dev

deps:
	@sh internal/testenv/install.sh $(TEST_DEBS)

test: deps ## all tests, with the race detector, against real servers
	$(GO) test -race -p 2 -timeout $(TEST_TIMEOUT) $(TEST_FLAGS) $(PACKAGES)

test-short: ## only the tests that need no servers
	$(GO) test -short -timeout 3m $(TEST_FLAGS) $(PACKAGES)

test-long: deps ## the tests that take an hour, and each fuzz target for a while
	TEST_LONG=1 $(GO) test -race -count 1 -p 1 -timeout 60m $(TEST_FLAGS) $(PACKAGES)
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

bench: ## orders per second beside a bare server, on this machine
	@sh internal/testenv/install.sh $(BENCH_DEBS)
	$(GO) test -tags bench -count 1 -run TestBench -v -timeout 60m ./loadtest/bench $(BENCH_FLAGS)
