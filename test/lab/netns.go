//go:build linux

package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// Namespace is a network namespace with its loopback up.
type Namespace struct{ handle netns.NsHandle }

// newNamespace makes a namespace that no name refers to: it ends with its last descriptor and its last process.
func newNamespace() (*Namespace, error) {
	type result struct {
		handle netns.NsHandle
		err    error
	}
	made := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread, which is in the new namespace, ends with this goroutine
		handle, err := netns.New()
		made <- result{handle, err}
	}()
	r := <-made
	if r.err != nil {
		return nil, fmt.Errorf("network namespace: %w", r.err)
	}
	n := &Namespace{handle: r.handle}
	links, err := n.netlink()
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	defer links.Close()
	lo, err := links.LinkByName("lo")
	if err == nil {
		err = links.LinkSetUp(lo)
	}
	if err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.handle.Close() }

// Do runs f on a thread that is in the namespace. Sockets that f opens stay there; goroutines that f starts are
// elsewhere.
func (n *Namespace) Do(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked, as in newNamespace
		if err := netns.Set(n.handle); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

// DialContext connects from inside the namespace. The address must be numeric: a name would be looked up on another
// thread.
func (n *Namespace) DialContext(ctx context.Context, network, address string) (conn net.Conn, err error) {
	if host, _, _ := net.SplitHostPort(address); net.ParseIP(host) == nil {
		return nil, fmt.Errorf("dial %s: want a numeric address", address)
	}
	err = n.Do(func() (err error) {
		conn, err = new(net.Dialer).DialContext(ctx, network, address)
		return err
	})
	return conn, err
}

func (n *Namespace) netlink() (*netlink.Handle, error) { return netlink.NewHandleAt(n.handle) }

// sysctl writes below /proc/sys/net of the namespace.
func (n *Namespace) sysctl(path, value string) error {
	return n.Do(func() error { return os.WriteFile("/proc/sys/net/"+path, []byte(value), 0) })
}
