# make help lists the targets. Go and git are enough for demo, build and test; Docker, root and a cluster are used where they are there.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo play build test golden images e2e bench microbench fuzz mutation attack soak lint clean

VERSION := $(shell sed -n 's/^const Version = "\(.*\)"$$/\1/p' internal/api/version.go)
REGISTRY := ghcr.io/meshless-dev
IMAGES := fn proxy init init-iptables shop
# The race detector needs a C compiler; without one the tests run all the same.
RACE := $(if $(shell command -v "$$(go env CC)" 2>/dev/null),-race,)
# Tools have a module of their own, so that go.sum knows their checksums and the programs do not depend on them.
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod

help: ## List the targets
	@sed -n 's/^\([a-z0-9]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F'\t' '{printf "  make %-10s %s\n", $$1, $$2}'

demo: build ## Render examples/shop with keys of its own, and show what came of it
	@KUSTOMIZE="go tool kustomize" bash examples/demo.sh

PLAY :=
play: ## Run two sidecars on this machine, without root or a cluster, to look at and debug; PLAY=-once ends after one request
	@go run ./test/play $(PLAY)

build: ## Build bin/meshless, and for Linux bin/meshless-proxy and bin/meshless-init
	CGO_ENABLED=0 go build -trimpath -ldflags "-s -w" -o bin/meshless ./cmd/meshless
	CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags "-s -w" -o bin/meshless-proxy ./cmd/meshless-proxy
	CGO_ENABLED=0 GOOS=linux go build -trimpath -ldflags "-s -w" -o bin/meshless-init ./cmd/meshless-init

TEST := ./...
# What the race detector makes five times as slow, and shows nothing, since it is one goroutine; and what counts
# allocations, of which the detector has its own.
WITHOUT_RACE := Mutations|CostOfWorkload
# Modules of their own, for what tests alone need; they run with the whole or with all of test/. Each is one goroutine,
# and most of its code others', so they run without the race detector as well.
MODULES := $(patsubst %/go.mod,%,$(wildcard test/*/go.mod))
test: ## Run every test that this machine can run; what it cannot run says so; TEST=./fn/... is one room
	@status=0; go test $(RACE) -count=1 -timeout 20m $(TEST) || status=1; \
	for package in $(if $(RACE),$(if $(filter ./... ./fn/... %/fn/verify,$(TEST)),./fn/verify) $(if $(filter ./... ./fn/... %/fn/cli,$(TEST)),./fn/cli)); do \
	  go test -count=1 -timeout 20m -run '$(WITHOUT_RACE)' $$package || status=1; \
	done; \
	for module in $(if $(filter ./... ./test/...,$(TEST)),$(MODULES)); do \
	  (cd $$module && go test -count=1 -timeout 20m ./...) || status=1; \
	done; exit $$status

golden: ## Write the golden files and the generated pages anew
	go test -count=1 $$(grep -rl --include='*_test.go' 'flag.Bool("update"' . | xargs -n1 dirname | sort -u) -update

images: ## Build the images under the tag that the examples use
	@for target in $(IMAGES); do \
	  echo "$(REGISTRY)/$$target:$(VERSION)"; \
	  docker build --quiet --target $$target --tag $(REGISTRY)/$$target:$(VERSION) . || exit 1; \
	done

E2E := ./test/cluster/...
ROOMS := 1
e2e: ## Test on the cluster that KUBECONFIG names; test/up.sh brings one up; E2E=./test/cluster/shop is one room, ROOMS=2 runs two at once
	go test -count=1 -timeout 30m -tags e2e -p $(ROOMS) $(E2E)

BENCH :=
bench: ## Measure the proxy beside nginx, HAProxy, stunnel and ghostunnel, an hour; BENCH=-quick takes a minute, BENCH=-help lists the flags
	go run ./test/bench $(BENCH)

microbench: ## Run the benchmarks of the packages
	go test -run '^$$' -bench . -benchmem ./...

fuzz: ## Run every fuzz test for ten seconds
	@for package in $$(grep -rl --include='*_test.go' '^func Fuzz' . | xargs -n1 dirname | sort -u); do \
	  for name in $$(grep -h '^func Fuzz' $$package/*_test.go | sed 's/^func \(Fuzz[A-Za-z0-9]*\).*/\1/'); do \
	    go test -run '^$$' -fuzz "^$$name\$$" -fuzztime 10s -fuzzminimizetime 5x $$package || exit 1; \
	  done; \
	done

mutation: ## Change the record layer's source in every small way, and see that its tests notice
	go run ./test/mutation

ATTACK :=
attack: ## Attack proxies in small containers, as root: what counts memory and needs a build without race detector; ATTACK=-survival tries everything everywhere
	go test -count=1 -timeout 20m -run 'Burst|Full|FewDescriptors|Cost|Allocations' ./proxy/sidecar
	go test -count=1 -timeout 60m ./test/attack $(ATTACK)

SOAK := 30m
soak: ## Load two proxies for half an hour while everything that can change does; memory, descriptors and goroutines must have no slope
	go test -count=1 -timeout 0 -v -run TestRotationUnderLoad ./proxy/sidecar -soak $(SOAK)

lint: ## gofmt, go mod verify, go vet, staticcheck (staticcheck.conf), and govulncheck where its data can be reached
	@unformatted=$$(gofmt -l .); test -z "$$unformatted" || { echo "not gofmt-ed: $$unformatted"; exit 1; }
	@for module in . tools $(MODULES); do (cd $$module && go mod verify) || exit 1; done
	go vet ./... && go vet -tags e2e ./test/...
	$(TOOL) staticcheck -tags e2e ./...
	@for module in $(MODULES); do (cd $$module && go vet ./... && $(TOOL) staticcheck ./...) || exit 1; done
	@if out=$$($(TOOL) govulncheck ./... 2>&1); then echo "govulncheck: no known vulnerability"; \
	elif grep -q 'fetching vulnerabilities' <<<"$$out"; then echo "govulncheck: skipped, its data cannot be reached here"; \
	else echo "$$out"; exit 1; fi

clean: ## Remove what build made
	rm -rf bin
