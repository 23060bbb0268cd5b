package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// readyTimeout bounds how long a pair may take to answer for the first time.
const readyTimeout = 15 * time.Second

// bench is a run: its options, its authority, its programs, and what it has taken of the machine.
type bench struct {
	options
	dir         string // of everything that the run writes, but for its results
	authority   authority
	ours        binaries
	connections int // idle ones at most, as the limit of open files allows
	host        *place
	pairs       int    // counts, for names
	lastPort    uint16 // that was given away
}

// Ports are given from a range that is neither the kernel's for outgoing connections nor that of NodePorts.
const firstPort, endPort = 17000, 29000

// port is one on which nobody listens now.
func (b *bench) port() uint16 {
	for range endPort - firstPort {
		if b.lastPort++; b.lastPort < firstPort || b.lastPort >= endPort {
			b.lastPort = firstPort
		}
		l, err := net.Listen("tcp4", fmt.Sprintf("127.0.0.1:%d", b.lastPort))
		if err == nil {
			l.Close()
			return b.lastPort
		}
	}
	return 0 // whoever listens there fails, and says so
}

func (b *bench) loopback() netip.AddrPort {
	return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), b.port())
}

// pair is a peer at work: generator's place, client side, server side, backend. Sides that a peer does not have are
// nil.
type pair struct {
	peer
	bench                  *bench
	dir                    string
	pods                   []*place
	generator              *place
	entry                  netip.AddrPort // what the generator connects to
	backend                *backendProcess
	clientSide, serverSide side
	client, server         *process
}

// want is what a measurement wants of a pair.
type want struct {
	passThrough bool // no server side; the client side takes its target to be outside the mesh
	connections int  // that the peers must have room for, 500 if it is less: nginx allocates their places in advance
}

// startPair starts backend, server side and client side of a peer, and waits for the first answer through them.
func (b *bench) startPair(p peer, w want) (*pair, error) {
	b.pairs++
	r := &pair{peer: p, bench: b, dir: filepath.Join(b.dir, fmt.Sprintf("%04d-%s", b.pairs, p.name)), generator: b.host}
	err := os.Mkdir(r.dir, 0o755)
	if err == nil {
		err = r.start(w)
	}
	if err != nil {
		r.stop()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return r, nil
}

func (r *pair) start(w want) error {
	backendPlace, backendAt := r.bench.host, r.bench.loopback()
	if r.peer.pods {
		pods, err := newPods()
		if err != nil {
			return err
		}
		r.pods, r.generator, backendPlace, backendAt = pods[:], pods[0], pods[1], netip.AddrPortFrom(podAddrs[1], 9000)
	}
	var err error
	if r.backend, err = backendPlace.startBackend(backendAt, r.dir); err != nil {
		return err
	}
	r.entry = backendAt
	if r.peer.start != nil {
		target := backendAt
		if !w.passThrough {
			r.serverSide = r.side("server", false, backendPlace, target)
			r.serverSide.want = w
			if r.server, err = r.serverSide.launch(r.peer); err != nil {
				return err
			}
			target = r.serverSide.listen
		}
		r.clientSide = r.side("client", true, r.generator, target)
		r.clientSide.want = w
		if r.client, err = r.clientSide.launch(r.peer); err != nil {
			return err
		}
		r.entry = r.clientSide.listen
	}
	return r.awaitAnswer()
}

// side is a hop with a folder and ports of its own. In pods, connections find it by redirection: both ends are the
// backend's address.
func (r *pair) side(name string, client bool, where *place, target netip.AddrPort) side {
	s := side{bench: r.bench, client: client, dir: filepath.Join(r.dir, name), where: where, target: target, listen: target}
	if !r.peer.pods {
		s.listen, s.admin = r.bench.loopback(), r.bench.loopback()
	}
	return s
}

// launch starts the side; a second call starts it again.
func (s side) launch(p peer) (*process, error) {
	if err := os.MkdirAll(s.dir, 0o755); err != nil {
		return nil, err
	}
	c, err := p.start(s)
	if err != nil {
		return nil, err
	}
	return s.where.launch(c, s.dir)
}

// processes are those of the proxies.
func (r *pair) processes() (list []*process) {
	for _, p := range []*process{r.client, r.server} {
		if p != nil {
			list = append(list, p)
		}
	}
	return list
}

// stop ends everything of the pair and removes its files.
func (r *pair) stop() {
	for _, p := range r.processes() {
		p.stop()
	}
	if r.backend != nil {
		r.backend.stop()
	}
	_ = closePlaces(r.pods)
	if !r.bench.keep {
		_ = os.RemoveAll(r.dir)
	}
}

// awaitAnswer waits until a message through the pair has its answer.
func (r *pair) awaitAnswer() error {
	return r.generator.do(func() error {
		var last error
		for deadline := time.Now().Add(readyTimeout); time.Now().Before(deadline); time.Sleep(200 * time.Microsecond) {
			if last = exchangeOnce(r.entry); last == nil {
				return nil
			}
			for _, p := range r.processes() {
				if err := p.alive(); err != nil {
					return err
				}
			}
		}
		for _, p := range r.processes() {
			last = errors.Join(last, fmt.Errorf("%s says: %s", p.name, p.logTail()))
		}
		return fmt.Errorf("no answer in %s: %w", readyTimeout, last)
	})
}

// exchangeOnce sends one message on a connection of its own and waits for the answer, two seconds at most.
func exchangeOnce(target netip.AddrPort) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	for _, option := range []int{unix.SO_RCVTIMEO, unix.SO_SNDTIMEO} {
		if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, option, &unix.Timeval{Sec: 2}); err != nil {
			return err
		}
	}
	if err := unix.Connect(fd, sockaddr(target)); err != nil {
		return err
	}
	if _, err := unix.Write(fd, []byte{modeEcho, 'x'}); err != nil {
		return err
	}
	var answer [1]byte
	if n, err := unix.Read(fd, answer[:]); err != nil || n != 1 || answer[0] != 'x' {
		return fmt.Errorf("the answer has %d bytes: %w", n, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return nil
}
