package admin

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"

	"google.golang.org/protobuf/encoding/protowire"
)

// Facts of grpc.health.v1 (github.com/grpc/grpc-proto/grpc/health/v1/health.proto) and of gRPC over HTTP/2
// (github.com/grpc/grpc/doc/PROTOCOL-HTTP2.md). One call does not need a gRPC library.
const (
	healthCheckPath = "/grpc.health.v1.Health/Check"
	fieldService    = 1 // HealthCheckRequest.service, string
	fieldStatus     = 1 // HealthCheckResponse.status, enum
	statusServing   = 1
	framePrefix     = 5 // compressed flag (1 byte) and length (4 bytes, big endian)
	maxGRPCMessage  = 4 << 10
)

var servingStatus = map[uint64]string{0: "UNKNOWN", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}

// grpc asks the app's health service, without TLS, as the kubelet does.
func (t target) grpc(ctx context.Context) error {
	message := []byte{}
	if t.handler.GRPC.Service != "" {
		message = protowire.AppendTag(message, fieldService, protowire.BytesType)
		message = protowire.AppendString(message, t.handler.GRPC.Service)
	}
	frame := binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message)))
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+t.hostPort(t.handler.GRPC.Port)+healthCheckPath,
		bytes.NewReader(append(frame, message...)))
	if err != nil {
		return err
	}
	request.Header.Set("Content-Type", "application/grpc")
	request.Header.Set("TE", "trailers")
	request.Header.Set("User-Agent", defaultUserAgent)
	protocols := new(http.Protocols)
	protocols.SetUnencryptedHTTP2(true)
	transport := &http.Transport{DialContext: t.dialer.DialContext, Protocols: protocols, DisableCompression: true, MaxResponseHeaderBytes: 64 << 10}
	defer transport.CloseIdleConnections()
	response, err := transport.RoundTrip(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(io.LimitReader(response.Body, maxGRPCMessage))
	if err != nil {
		return err
	}
	return checkHealth(response, body)
}

// checkHealth is nil for SERVING alone. The trailers are complete, since the body was read to its end.
func checkHealth(response *http.Response, body []byte) error {
	if response.StatusCode != http.StatusOK {
		return &unhealthy{fmt.Sprintf("gRPC health check: HTTP status %d", response.StatusCode)}
	}
	code, text := response.Trailer.Get("Grpc-Status"), response.Trailer.Get("Grpc-Message")
	if code == "" { // an answer without a message has its trailers in the header
		code, text = response.Header.Get("Grpc-Status"), response.Header.Get("Grpc-Message")
	}
	if code != "0" {
		return &unhealthy{fmt.Sprintf("gRPC health check: status %q %s", code, text)}
	}
	status, err := parseHealth(body)
	if err != nil {
		return &unhealthy{"gRPC health check: " + err.Error()}
	}
	if status != statusServing {
		return &unhealthy{fmt.Sprintf("gRPC health check: %s (%d)", servingStatus[status], status)}
	}
	return nil
}

// parseHealth reads the status of one uncompressed HealthCheckResponse. Unknown fields are skipped, as protobuf
// demands.
func parseHealth(frame []byte) (status uint64, err error) {
	if len(frame) < framePrefix || frame[0] != 0 || uint64(binary.BigEndian.Uint32(frame[1:])) != uint64(len(frame)-framePrefix) {
		return 0, errors.New("the answer is no gRPC message")
	}
	for message := frame[framePrefix:]; len(message) > 0; {
		number, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		message = message[n:]
		if number == fieldStatus && kind == protowire.VarintType {
			status, n = protowire.ConsumeVarint(message)
		} else {
			n = protowire.ConsumeFieldValue(number, kind, message)
		}
		if n < 0 {
			return 0, protowire.ParseError(n)
		}
		message = message[n:]
	}
	return status, nil
}
