# Bare `make` prints the targets. What CI runs is .ci/run: test, test-interop, check.

# Tools are pinned here, built into .bin, and no part of go.mod. Each has a directory with its version,
# so that a new version here is a new file there.
STATICCHECK_VERSION        := v0.8.2
GOFUMPT_VERSION            := v0.12.0
PROTOC_GEN_GO_VERSION      := v1.36.12
PROTOC_GEN_GO_GRPC_VERSION := v1.6.2
PROTOC_VERSION             := 3.21.12

BIN                := $(CURDIR)/.bin
STATICCHECK        := $(BIN)/staticcheck@$(STATICCHECK_VERSION)/staticcheck
GOFUMPT            := $(BIN)/gofumpt@$(GOFUMPT_VERSION)/gofumpt
PROTOC_GEN_GO      := $(BIN)/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)/protoc-gen-go
PROTOC_GEN_GO_GRPC := $(BIN)/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)/protoc-gen-go-grpc

PROTOS   := $(wildcard proto/ringside/v1/*.proto)
FUZZTIME ?= 20s
SOAKOPS  ?= 10000000
# SOAKTIME is 30m for the client and 10m for the sidecar unless it is given.

.DELETE_ON_ERROR:
.PHONY: help build test test-interop race lint fuzz fuzz-seeds bench benchmarks soak soak-client soak-sidecar gen gen-diff accept-contract arch check clean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## build ./ringside
	go build -o ringside ./cmd/ringside

test: ## all tests that need only Go and memcached (installed with apt if it may)
	@scripts/need-memcached
	@scripts/need-systemd
	go test ./...

test-interop: ## tests against other real parts: nutcracker, yrmcds, clients in other languages
	@scripts/need-interop
	go test -tags interop -count=1 ./interop/... ./internal/realserver
	go test -tags interop -count=1 -run TestOldServers ./client ./stampede

race: ## all tests under the race detector
	@scripts/need-memcached
	@scripts/need-systemd
	go test -race ./...

lint: $(STATICCHECK) $(GOFUMPT) ## go vet, staticcheck, gofumpt, and the style and compatibility of the gRPC contract
	go test -run '^TestContract' ./proto/ringside/v1
	go vet -tags interop ./...
	$(STATICCHECK) -tags interop ./...
	@echo gofumpt -l .; unformatted=$$($(GOFUMPT) -l .); [ -z "$$unformatted" ] || \
		{ echo "Not formatted with gofumpt:"; echo "$$unformatted"; exit 1; }

fuzz: ## run each fuzz target for FUZZTIME (20s)
	scripts/fuzz $(FUZZTIME)

fuzz-seeds: ## run the committed seeds of the fuzz targets
	go test -run '^Fuzz' ./...

bench: ## run the micro-benchmarks
	@scripts/need-memcached
	go test -bench . -run '^$$' ./ring/... ./proto/memcached/... ./client/...

benchmarks: build ## make docs/benchmarks.md, its pictures and the README's figures from docs/benchmarks.json
	./ringside bench report --from docs/benchmarks.json --plots docs/img --out docs/benchmarks.md --readme README.md

soak: soak-client soak-sidecar ## both of the next

soak-client: ## throw faults at SOAKOPS operations of the client (10 million); fails after SOAKTIME (30m)
	@scripts/need-memcached
	go test -count=1 -v -timeout 2h -run '^TestSoak$$' ./client -soak.ops $(SOAKOPS) -soak.time $(or $(SOAKTIME),30m)

soak-sidecar: ## look whether the memory of the sidecar stays flat under load for SOAKTIME (10m)
	@scripts/need-memcached
	go test -count=1 -v -timeout 2h -run '^TestSidecarSoak$$' ./bench -sidecar.soak $(or $(SOAKTIME),10m)

gen: $(if $(PROTOS),$(PROTOC_GEN_GO) $(PROTOC_GEN_GO_GRPC)) ## generate the gRPC code from proto/ringside/v1
ifneq ($(PROTOS),)
	@scripts/need-protoc $(PROTOC_VERSION)
	protoc -I proto \
		--plugin=protoc-gen-go=$(PROTOC_GEN_GO) --go_out=proto --go_opt=paths=source_relative \
		--plugin=protoc-gen-go-grpc=$(PROTOC_GEN_GO_GRPC) --go-grpc_out=proto --go-grpc_opt=paths=source_relative \
		$(PROTOS)
endif

accept-contract: gen ## record what was added to the gRPC contract; with BREAKING=1 what was taken away too
	go test -run '^TestContract$$' ./proto/ringside/v1 -update $(if $(BREAKING),-breaking)

check: lint gen-diff arch race fuzz-seeds ## what CI runs besides the tests: lint, gen, arch, race, fuzz-seeds

# gen leaves no difference to what is committed, and no new file.
gen-diff: gen
	git diff --exit-code -- proto/ringside
	@untracked=$$(git ls-files --others --exclude-standard -- proto/ringside); [ -z "$$untracked" ] || \
		{ echo "Not committed:"; echo "$$untracked"; exit 1; }

# Who may import whom.
arch:
	go test -count=1 ./internal/archtest

clean: ## remove what build, bench and the tools left
	rm -rf ringside .bin bench-out

$(STATICCHECK):
	GOBIN=$(@D) go install honnef.co/go/tools/cmd/staticcheck@$(STATICCHECK_VERSION)

$(GOFUMPT):
	GOBIN=$(@D) go install mvdan.cc/gofumpt@$(GOFUMPT_VERSION)

$(PROTOC_GEN_GO):
	GOBIN=$(@D) go install google.golang.org/protobuf/cmd/protoc-gen-go@$(PROTOC_GEN_GO_VERSION)

$(PROTOC_GEN_GO_GRPC):
	GOBIN=$(@D) go install google.golang.org/grpc/cmd/protoc-gen-go-grpc@$(PROTOC_GEN_GO_GRPC_VERSION)
