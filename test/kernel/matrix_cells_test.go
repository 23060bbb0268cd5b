package kernel

import (
	"fmt"
	"testing"

	"github.com/meshless-dev/meshless/test/app/talk"
)

// side says whether a pod of the matrix has been injected.
type side bool

const (
	captured side = true
	plain    side = false // the same function has rendered it, but it opted out
)

func (s side) String() string {
	if s == captured {
		return "captured"
	}
	return "plain"
}

// mode is what a server's port takes.
type mode string

const (
	strict     mode = "Strict"
	permissive mode = "Permissive"
	excluded   mode = "excluded"        // meshless.dev/exclude-inbound-ports
	outOfMesh  mode = "out of the mesh" // the server has no proxy
)

func (m mode) side() side { return m != outOfMesh }

// kind is what a client dials.
type kind string

const (
	clusterIP kind = "ClusterIP"
	headless  kind = "headless"
	podIP     kind = "pod IP" // of an endpoint of the ClusterIP Service
	ownVIP    kind = "own VIP"
	ownIP     kind = "own pod IP"
	localhost kind = "localhost"
)

// self tells whether the server is its own client.
func (k kind) self() bool { return k == ownVIP || k == ownIP || k == localhost }

// outcome is what must become of a conversation.
type outcome string

const (
	encrypted  outcome = "encrypted" // held; on every wire mutual TLS and nothing of what was said
	plaintext  outcome = "plaintext" // held, and to be read on the wire
	local      outcome = "local"     // held within the pod: no packet on a wire, no proxy
	turnedAway outcome = "refused"   // not a byte of it reaches the app
)

// cell is one conversation of the matrix. Its port is its own, so that streams, log lines and reports tell which cell
// they belong to.
type cell struct {
	mode    mode
	client  side
	family  int
	kind    kind
	pattern talk.Pattern
	port    int
}

func (c cell) String() string {
	return fmt.Sprintf("%s/%s client/IPv%d/%s/%s", c.mode, c.client, c.family, c.kind, c.pattern)
}

// expect is the outcome that the design promises. The order of the questions is their weight.
func (c cell) expect() outcome {
	switch {
	case c.kind == localhost, c.kind == ownIP:
		// docs/init.md, "Why these rules": no peer is involved, whatever the port's mode
		return local
	case c.mode == outOfMesh, c.mode == excluded: // DNS confirms that the mesh map's plaintext port is meant
		return plaintext
	case c.client == captured: // to the own VIP as well: the own inbound proxy terminates and judges
		return encrypted
	case c.mode == permissive:
		return plaintext
	}
	return turnedAway
}

// patient tells whether the cell mostly waits: such cells run beside all others.
func (c cell) patient() bool { return c.pattern == talk.LongIdle || c.pattern == talk.ServerFirst }

// What the ports of each mode begin with. A range holds twenty ports, as package talk numbers them, of every
// combination of client, family and kind.
var firstPorts = map[mode]int{strict: 21000, permissive: 22000, excluded: 23000, outOfMesh: 24000}

// portsOf is the range of a mode, as in the annotations.
func portsOf(m mode) string { return fmt.Sprintf("%d-%d", firstPorts[m], firstPorts[m]+999) }

// matrix is every cell.
func matrix() (cells []cell) {
	for _, m := range []mode{strict, permissive, excluded, outOfMesh} {
		port := firstPorts[m]
		for _, client := range []side{captured, plain} {
			for _, family := range []int{4, 6} {
				for _, k := range []kind{clusterIP, headless, podIP, ownVIP, ownIP, localhost} {
					if k.self() && client != m.side() {
						continue // a pod is its own client, injected or not
					}
					for _, pattern := range talk.Patterns {
						cells = append(cells, cell{m, client, family, k, pattern, port + int(pattern)})
					}
					port += talk.Ports
				}
			}
		}
	}
	return cells
}

// The matrix is whole: 4 modes by 2 clients by 2 families by 3 kinds, and 4 modes by 2 families by 3 kinds of a pod
// itself, each by 11 patterns.
func TestMatrixCells(t *testing.T) {
	cells := matrix()
	if want := (4*2*2*3 + 4*2*3) * 11; len(cells) != want {
		t.Errorf("the matrix has %d cells, want %d", len(cells), want)
	}
	names, ports, outcomes := map[string]bool{}, map[int]bool{}, map[outcome]int{}
	for _, c := range cells {
		if names[c.String()] || ports[c.port] {
			t.Errorf("%s at port %d: name or port is another's", c, c.port)
		}
		names[c.String()], ports[c.port] = true, true
		outcomes[c.expect()]++
		if p, ok := talk.Of(c.port); !ok || p != c.pattern {
			t.Errorf("%s: port %d means %v", c, c.port, p)
		}
		if first := firstPorts[c.mode]; c.port < first || c.port > first+999 {
			t.Errorf("%s: port %d is none of %s", c, c.port, portsOf(c.mode))
		}
	}
	for o, want := range map[outcome]int{
		encrypted:  (2*2*3 + 2*2) * 11,    // Strict, Permissive: captured client; own VIP
		plaintext:  (6 + 2*12 + 2*2) * 11, // Permissive: plain client; excluded, out of the mesh: both clients; own VIP
		local:      4 * 2 * 2 * 11,        // every mode, family: own pod IP, localhost
		turnedAway: 6 * 11,                // Strict: plain client
	} {
		if outcomes[o] != want {
			t.Errorf("%d cells are to be %s, want %d", outcomes[o], o, want)
		}
	}
}
