# Fairlead. "make build" and "make up" to try it, "make check test" before sending
# a change: that is what CI runs.

GO      ?= go
PROTOC  ?= protoc
# grpcnotrace keeps golang.org/x/net/trace, and with it html/template, out of the binary.
TAGS    := grpcnotrace
MODULE  := fairlead.dev/fairlead
VERSION := $(shell git describe --tags --always --dirty 2>/dev/null)
BINARY  := bin/fairlead
TOOLS   := bin/tools
BUDGET  := 45000000# bytes of the binary

BUILD   := $(GO) build -tags $(TAGS) -trimpath -buildvcs=false
LDFLAGS := -s -w -X $(MODULE)/cli.version=$(VERSION)

# The race detector needs a C compiler.
RACE    := $(if $(shell command -v $${CC:-gcc} 2>/dev/null),-race)

PROTOS  := $(sort $(shell find . -name '*.proto' -not -path './bin/*' | sed 's|^\./||'))
GO_OPTS := module=$(MODULE)

.PHONY: build
build: ## build bin/fairlead
	$(BUILD) -ldflags '$(LDFLAGS)' -o $(BINARY) ./cmd/fairlead

.PHONY: up
up: build ## a server and a local agent in one process
	$(BINARY) up

.PHONY: test
test: ## every test
	@test -n "$(RACE)" || echo "No C compiler found: testing without the race detector."
	$(GO) test $(RACE) -tags $(TAGS) -timeout 10m ./...

FUZZTIME ?= 1m

# go runs one fuzz target at a time. What it finds is kept in testdata/fuzz of the
# package and is from then on a case of "make test".
.PHONY: fuzz
fuzz: ## every parser of bytes from the network, for FUZZTIME each
	@set -e; grep -rn --include='*_test.go' '^func Fuzz' . | sed 's|:[0-9]*:func | |; s|(.*||' | sort | \
	while read -r file target; do \
		echo "fuzz: $$target in $$(dirname "$$file")"; \
		$(GO) test -tags $(TAGS) -run '^$$' -fuzz "^$$target\$$" -fuzztime $(FUZZTIME) "$$(dirname "$$file")"; \
	done

.PHONY: bench
bench: build ## measure beside stock OpenSSH; docs/performance.md explains the figures
	$(GO) run -tags $(TAGS) ./tests/bench -binary $(BINARY)

# About ten minutes, as root or where user namespaces are allowed. WIREGUARD names a program of
# wireguard-go, which is no part of this repository: go install golang.zx2c4.com/wireguard@latest
.PHONY: bench-speed
bench-speed: build ## bulk, files, sessions and typing over network namespaces, beside OpenSSH
	$(GO) run -tags $(TAGS) ./tests/bench -binary $(BINARY) -only raw,relayed
	$(GO) run -tags $(TAGS) ./tests/bench speed -binary $(BINARY) -wireguard "$(WIREGUARD)"

# Some minutes. SOAK="-soak.seed N" repeats a schedule.
.PHONY: soak
soak: build ## kill agents 100 times and servers 20 times, and see that the connection log is whole
	$(GO) test -tags $(TAGS) -count 1 -timeout 60m -v ./tests/soak -run '^TestSoak$$' \
		-soak.binary $(CURDIR)/$(BINARY) -soak.agents 100 -soak.servers 20 -soak.clients 6 $(SOAK)

# As root, some 10 minutes. RUN=name runs one scenario, or all that a regular expression
# matches, and leaves its logs in bin/faults; FAULTS="-list" shows their names.
.PHONY: faults
faults: ## what is said of each fault, beside what was done; docs/faults.md holds the figures
	@mkdir -p bin/faults
	$(GO) run -tags $(TAGS) ./tests/faults -version '$(VERSION)' -keep bin/faults $(if $(RUN),-run '$(RUN)',-json bin/faults/result.json -page docs/faults.md) -why tests/faults/testdata/why $(FAULTS)

# As root, some 15 minutes. The results are kept with the versions of the packages.
.PHONY: faults-peers
faults-peers: ## what OpenSSH and mosh, as installed here, say of the same faults
	@mkdir -p bin/faults-peers
	$(GO) run -tags $(TAGS) ./tests/faults/peers -out tests/faults/peers -keep bin/faults-peers $(PEERS)

# Five minutes. It wants the packages of .ci/run, and has a row for each that is missing;
# INTEROP=-interop.all makes that a failure.
.PHONY: interop
interop: build ## run the SSH clients that people have; docs/interop.md holds what works
	$(GO) test -tags $(TAGS) -count 1 -timeout 10m ./tests/interop -interop.regress -run "^(TestClients|TestOpenSSHTests)$$" \
		-interop.binary $(CURDIR)/$(BINARY) -interop.mib 64 -interop.page $(CURDIR)/docs/interop.md $(INTEROP)

.PHONY: check
check: vet staticcheck house generated linked versions ## everything CI wants besides the tests
	@echo "check: all is well"

.PHONY: vet
vet:
	@bad=$$(gofmt -l $$($(GO) list -tags $(TAGS) -f '{{.Dir}}' ./...)) && \
	if [ -n "$$bad" ]; then echo "Not formatted, run gofmt -w on:"; echo "$$bad"; exit 1; fi
	$(GO) vet -tags $(TAGS) ./...

# What people and workspaces run. Everything is compiled, nothing linked. It is no part of
# "make check": the first time takes two minutes of CPU for each platform, most for SQLite.
PLATFORMS ?= linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64

.PHONY: cross
cross: ## see that it builds for every platform
	@set -e; for platform in $(PLATFORMS); do \
		CGO_ENABLED=0 GOOS=$${platform%/*} GOARCH=$${platform#*/} $(BUILD) ./cli || \
			{ echo "cross: it does not build for $$platform"; exit 1; }; \
	done
	@echo "cross: builds for $(PLATFORMS)"

.PHONY: staticcheck
staticcheck: $(TOOLS)/.installed
	$(TOOLS)/staticcheck -tags $(TAGS) ./...

# Layers, walls, package docs and the other rules that are tests of the root.
.PHONY: house
house:
	$(GO) test -tags $(TAGS) .

# What is generated must be what the sources give. The line with protoc's own
# version may differ.
.PHONY: generated
generated: $(TOOLS)/.installed need-protoc
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	$(call protoc,"$$new"); \
	for file in $$(cd "$$new" && find . -name '*.go'); do \
		diff -u -I 'protoc  *v[0-9]' "$$file" "$$new/$$file" || { echo "$$file is stale: run make proto"; exit 1; }; \
	done; \
	$(GO) run ./disconnect/docgen "$$new/disconnects.md"; \
	diff -u docs/disconnects.md "$$new/disconnects.md" || \
		{ echo "docs/disconnects.md is stale: run go generate ./disconnect"; exit 1; }
	@echo "generated: current"

# One reachable use of reflect.Value.MethodByName makes the linker keep every
# exported method of the program, which is 10 MB; the linker itself is the witness.
# (html/template may be among the imports, for tailscale.com/util/eventbus names it,
# as long as nothing that runs calls it.)
.PHONY: linked
linked:
	@if $(GO) list -deps -tags $(TAGS) ./cmd/fairlead | grep -x golang.org/x/net/trace; then \
		echo "The binary must not import golang.org/x/net/trace."; exit 1; fi
	@set -e; new=$$(mktemp -d); trap 'rm -rf "$$new"' EXIT; \
	$(BUILD) -ldflags '-s -w -dumpdep' -o "$$new/fairlead" ./cmd/fairlead >"$$new/deps" 2>&1 || \
		{ grep -v -e ' -> ' "$$new/deps"; exit 1; }; \
	if grep -m 10 -e '-> .*<ReflectMethod>' "$$new/deps"; then \
		echo "The functions above look methods up by name, so the linker keeps every method."; exit 1; fi; \
	size=$$(wc -c <"$$new/fairlead"); \
	if [ "$$size" -gt $(BUDGET) ]; then echo "The binary has $$size bytes, more than $(BUDGET)."; exit 1; fi; \
	echo "linked: $$size bytes, no method is looked up by name"

# modernc.org/sqlite works with exactly the modernc.org/libc of its own go.mod.
.PHONY: versions
versions:
	@wanted=$$(awk '{ sub(/^require /, "") } $$1 == "modernc.org/libc" { print $$2 }' "$$($(GO) list -m -f '{{.GoMod}}' modernc.org/sqlite)") && \
	used=$$($(GO) list -m -f '{{.Version}}' modernc.org/libc) && \
	if [ "$$wanted" != "$$used" ]; then \
		echo "modernc.org/sqlite wants modernc.org/libc $$wanted, go.mod has $$used."; exit 1; fi && \
	echo "versions: modernc.org/libc $$used is what sqlite wants"

.PHONY: proto
proto: $(TOOLS)/.installed need-protoc ## regenerate the protobuf code
	$(call protoc,.)

.PHONY: need-protoc
need-protoc:
	@command -v $(PROTOC) >/dev/null || { echo "protoc is missing: install your system's protobuf-compiler package."; exit 1; }

# $(call protoc,DIR) writes the code of every .proto file below DIR.
protoc = PATH="$(CURDIR)/$(TOOLS):$$PATH" $(PROTOC) -I . --go_out=$(1) --go_opt=$(GO_OPTS) --go-grpc_out=$(1) --go-grpc_opt=$(GO_OPTS) $(PROTOS)

# The tools are pinned in a module of their own, so that they do not weigh on ours.
$(TOOLS)/.installed: tools/go.mod tools/go.sum
	GOBIN="$(CURDIR)/$(TOOLS)" $(GO) install -C tools tool
	@touch $@

.PHONY: clean
clean: ## remove what was built
	rm -rf bin
