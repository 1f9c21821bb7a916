GO      ?= go
TAGS    := grpcnotrace
PROTOS  := disconnect/wire/wire.proto control/proto/control.proto tailnet/proto/tailnet.proto agent/proto/agent.proto agent/proto/companion.proto

.PHONY: proto
proto:
	GOBIN=$(CURDIR)/bin/tools $(GO) install -C tools tool
	PATH="$(CURDIR)/bin/tools:$$PATH" protoc -I . --go_out=. --go_opt=module=fairlead.dev/fairlead --go-grpc_out=. --go-grpc_opt=module=fairlead.dev/fairlead $(PROTOS)
