package connection

import (
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/proxy/identity"
	"github.com/meshless-dev/meshless/proxy/relay"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// A renewal lets connections between two proxies of the mesh outlive the leaves of their handshakes. The client opens
// one more connection to the server, with api.RenewALPN, on which both prove their new leaves. On it the client names
// each connection by a value that only the two ends of that connection know, exported from its handshake (RFC 8446,
// section 7.5; RFC 9266 binds channels so). The server answers with another such value for each that it has with the
// same identity. So both know that the other end of the connection is who has the new leaf: not another host with the
// same identity, nobody at the same address, and nobody on the path who has stolen an old key.
//
// The client sends the number of names as two bytes, and the names; the server as many answers, zeros for what it does
// not know.

// binding names a connection, or answers to its name.
type binding [16]byte

// maxBindings bounds the connections of one renewal.
const maxBindings = 256

// renewalLabel is an exporter's label (RFC 8446, section 7.5).
const renewalLabel = "EXPERIMENTAL meshless renewal"

// bindings are the name of the connection of a handshake, and the answer to it. Neither half of what is exported tells
// anything of the other.
func bindings(state tls.ConnectionState) (name, answer binding, err error) {
	secret, err := state.ExportKeyingMaterial(renewalLabel, nil, len(name)+len(answer))
	if err != nil {
		return name, answer, fmt.Errorf("naming the connection: %w", err)
	}
	copy(answer[:], secret[copy(name[:], secret):])
	return name, answer, nil
}

// errRenewal is no failure: the connection was a renewal, and is over.
var errRenewal = errors.New("the connection was a renewal")

// bound are the inbound connections that can be renewed. Make it with newBound.
type bound struct {
	mu    sync.Mutex
	known map[binding]boundConn
}

type boundConn struct {
	answer binding
	peer   *identity.Peer
}

func newBound() *bound { return &bound{known: map[binding]boundConn{}} }

// add makes a connection known until release. One whose client is no proxy of the mesh is not: it sends no renewals.
func (b *bound) add(state tls.ConnectionState, peer *identity.Peer) (release func()) {
	if state.NegotiatedProtocol != api.ALPN {
		return func() {}
	}
	name, answer, err := bindings(state)
	if err != nil {
		return func() {}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.known[name] = boundConn{answer, peer}
	return func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.known, name)
	}
}

// find is the connection of a name with a peer of the same identity.
func (b *bound) find(name binding, peer *identity.Peer) (boundConn, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	c, ok := b.known[name]
	return c, ok && c.peer.ID == peer.ID
}

// renew serves a renewal to its end. The app is not dialed.
func (c *inboundConn) renew(h *relay.Handshake, peer *identity.Peer) error {
	stream, now := h.Stream(), c.snapshot
	defer stream.Close()
	result := telemetry.RenewalFailed
	defer func() { c.log.Renewed(result) }()
	names, err := readNames(stream)
	if err != nil {
		return errRenewal
	}
	result = telemetry.RenewalUnchanged
	answers := make([]binding, len(names))
	for i, name := range names {
		known, ok := c.in.bound.find(name, peer)
		if !ok {
			continue
		}
		if known.peer.Renew(now, peer.Chain()) {
			result = telemetry.RenewalDone
		} else if known.peer.OlderThan(peer) {
			continue // the client must not take its leaf for known here
		}
		answers[i] = known.answer
	}
	if _, err := stream.Write(slices.Concat(asBytes(answers)...)); err != nil {
		result = telemetry.RenewalFailed
	}
	_ = stream.CloseWrite()
	_, _ = stream.Read(make([]byte, 1)) // the client's end: closing before it could reset what it has not read
	return errRenewal
}

func readNames(r io.Reader) ([]binding, error) {
	var count [2]byte
	if _, err := io.ReadFull(r, count[:]); err != nil {
		return nil, err
	}
	n := int(binary.BigEndian.Uint16(count[:]))
	if n > maxBindings {
		return nil, fmt.Errorf("a renewal names %d connections, at most %d are allowed", n, maxBindings)
	}
	return readBindings(r, n)
}

func readBindings(r io.Reader, n int) ([]binding, error) {
	all := make([]binding, n)
	for i := range all {
		if _, err := io.ReadFull(r, all[i][:]); err != nil {
			return nil, err
		}
	}
	return all, nil
}

func writeNames(w io.Writer, names []binding) error {
	count := binary.BigEndian.AppendUint16(nil, uint16(len(names)))
	_, err := w.Write(slices.Concat(append([][]byte{count}, asBytes(names)...)...))
	return err
}

func asBytes(all []binding) [][]byte {
	parts := make([][]byte, len(all))
	for i := range all {
		parts[i] = all[i][:]
	}
	return parts
}
