package main

import (
	"encoding/binary"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
)

// Facts of grpc.health.v1 (github.com/grpc/grpc-proto/grpc/health/v1/health.proto) and of gRPC over HTTP/2
// (github.com/grpc/grpc/doc/PROTOCOL-HTTP2.md). One call does not need a gRPC library.
const (
	healthCheckPath = "/grpc.health.v1.Health/Check"
	fieldStatus     = 1 // HealthCheckResponse.status, enum
	serving         = 1
	notServing      = 2
)

// grpcHealth answers a health check for every service alike.
func (a *app) grpcHealth(w http.ResponseWriter, r *http.Request) {
	io.Copy(io.Discard, io.LimitReader(r.Body, 4<<10))
	status := uint64(serving)
	if a.failed.Load() {
		status = notServing
	}
	message := protowire.AppendVarint(protowire.AppendTag(nil, fieldStatus, protowire.VarintType), status)
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set("Trailer", "Grpc-Status")
	w.Write(append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...))
	w.Header().Set("Grpc-Status", "0")
}
