package main

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"runtime"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// The pods' addresses are of RFC 2544's network for benchmarks. It is not private (RFC 1918), so that our proxy decides
// without asking DNS.
var podAddrs = [2]netip.Addr{netip.MustParseAddr("198.18.0.1"), netip.MustParseAddr("198.18.0.2")}

// place is where processes run: a network namespace, or this machine's own. Jobs run on one thread that outlives the
// processes it starts, since their parent-death signal is tied to it.
type place struct {
	jobs   chan func()
	handle netns.NsHandle // of a namespace of ours; netns.None() is the machine's own
}

func newPlace(isolated bool) (*place, error) {
	p := &place{jobs: make(chan func()), handle: netns.None()}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: where the thread has changed its namespace it ends with this goroutine
		var err error
		if isolated {
			p.handle, err = netns.New()
		}
		entered <- err
		for job := range p.jobs {
			job()
		}
	}()
	if err := <-entered; err != nil {
		close(p.jobs)
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	return p, nil
}

// do runs f on the place's thread.
func (p *place) do(f func() error) error {
	done := make(chan error, 1)
	p.jobs <- func() { done <- f() }
	return <-done
}

func (p *place) close() {
	close(p.jobs)
	if p.handle.IsOpen() {
		p.handle.Close()
	}
}

// newPods makes two network namespaces that a veth pair joins, as two pods on one node.
func newPods() (pods [2]*place, err error) {
	for i := range pods {
		if pods[i], err = newPlace(true); err != nil {
			return pods, errors.Join(err, closePlaces(pods[:i]))
		}
	}
	if err := join(pods); err != nil {
		return pods, errors.Join(fmt.Errorf("join two network namespaces: %w", err), closePlaces(pods[:]))
	}
	return pods, nil
}

func closePlaces(places []*place) error {
	for _, p := range places {
		p.close()
	}
	return nil
}

func join(pods [2]*place) error {
	for i, p := range pods {
		h, err := netlink.NewHandleAt(p.handle)
		if err != nil {
			return err
		}
		defer h.Close()
		if i == 0 {
			pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", MTU: 1500}, PeerName: "eth0", PeerNamespace: netlink.NsFd(pods[1].handle)}
			if err := h.LinkAdd(pair); err != nil {
				return err
			}
		}
		for _, name := range []string{"lo", "eth0"} {
			link, err := h.LinkByName(name)
			if err != nil {
				return err
			}
			if name == "eth0" {
				addr := &netlink.Addr{IPNet: &net.IPNet{IP: podAddrs[i].AsSlice(), Mask: net.CIDRMask(24, 32)}}
				if err := h.AddrAdd(link, addr); err != nil {
					return err
				}
			}
			if err := h.LinkSetUp(link); err != nil {
				return err
			}
		}
	}
	return nil
}
