package sidecar

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"syscall"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
	"github.com/meshless-dev/meshless/proxy/destination"
	"github.com/meshless-dev/meshless/proxy/listen"
	"github.com/meshless-dev/meshless/proxy/loopback"
	"github.com/meshless-dev/meshless/proxy/nameserver"
	"github.com/meshless-dev/meshless/proxy/telemetry"
)

// direct is what a sidecar without redirect rules has in their place. What arrives comes to a port of the proxy's own
// for each port of the app, and what the app opens comes to loopback addresses, to which DNS leads it.
type direct struct {
	plan  podplan.Direct
	ports map[uint16]uint16 // of the app, by those of the proxy
	table *loopback.Table
	led   netip.Prefix // of the table
	names *nameserver.Server
}

// makeDirect makes the table of loopback addresses, and the Redirect that goes with it, unless there is one.
func (s *Sidecar) makeDirect() {
	o := &s.options
	d := &direct{plan: *o.Direct, ports: map[uint16]uint16{}, led: loopback.Network}
	if o.loopbacks.IsValid() {
		d.led = o.loopbacks
	}
	for port := range d.plan.Ports.All() {
		d.ports[api.DirectPort(port)] = port
	}
	var names *telemetry.Names
	d.table = loopback.New(loopback.Options{Serve: func(l net.Listener) bool { return s.outbound.Add(l) }, Limit: o.Budget.Listeners, Network: d.led, Now: o.Now,
		Listens: func(service string, at netip.AddrPort) {
			if d.plan.AppAddress != podplan.AppLoopback && d.plan.Ports.Contains(at.Port()) {
				names.Led(service, at)
			}
		}})
	results := make([]string, len(nameserver.Results))
	for i, r := range nameserver.Results {
		results[i] = string(r)
	}
	names = s.telemetry.NewNames(results, d.table.Listeners)
	d.names = nameserver.New(nameserver.Options{UDP: s.bound.namesUDP, TCP: s.bound.names, Servers: notAt(o.NameServers, s.bound.names.Addr()), Map: s.meshMap,
		Lead: d.lead, HasIPv4: o.hasIPv4, Count: func(r nameserver.Result) { names.Answered(string(r)) }, Refuse: names.Refused, Now: o.Now})
	o.Redirect = cmp.Or(o.Redirect, &Redirect{Outbound: d.table.Original, Inbound: d.original, OwnAddress: o.own()})
	s.direct = d
}

// meshMap is the one in force; nil: none yet.
func (s *Sidecar) meshMap() *meshmap.Map {
	if snapshot := s.identity.Current(); snapshot != nil {
		return snapshot.Mesh
	}
	return nil
}

// original is where a peer wanted to go who came to a direct port: to the same address, and the port of the app.
func (d *direct) original(c *net.TCPConn) (netip.AddrPort, error) {
	at := listen.AddrPort(c.LocalAddr())
	port, ok := d.ports[at.Port()]
	if !ok {
		return netip.AddrPort{}, fmt.Errorf("port %d stands for no port of the app", at.Port())
	}
	return netip.AddrPortFrom(at.Addr(), port), nil
}

// lead is nameserver.Options.Lead. The proxy's own ports on all addresses are no Service's: metrics and health of other
// pods are asked for at their own addresses, as a program that collects them does.
func (d *direct) lead(targets []loopback.Target, ports netset.Ports) ([]netip.Addr, error) {
	var theirs netset.Ports
	for port := range ports.All() {
		if of, is := d.ports[port]; is {
			return nil, fmt.Errorf("port %d of the Service is where the proxy of this pod takes what is for port %d of its app; give the Service another port", port, of)
		}
		if port != api.MetricsPort && port != api.HealthPort {
			theirs = append(theirs, netset.PortRange{First: port, Last: port})
		}
	}
	return d.table.Lead(targets, theirs)
}

// refuseLed resets connections to loopback addresses of Services: at our ports on all addresses they would meet us in
// place of the Service.
func (d *direct) refuseLed(listeners []net.Listener) (wrapped []net.Listener) {
	for _, l := range listeners {
		wrapped = append(wrapped, &unledListener{l, d.led})
	}
	return wrapped
}

type unledListener struct {
	net.Listener
	led netip.Prefix
}

func (l *unledListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || !l.led.Contains(listen.AddrPort(c.LocalAddr()).Addr()) {
			return c, err
		}
		if tcp, ok := c.(*net.TCPConn); ok {
			listen.Reset(tcp)
		} else {
			_ = c.Close()
		}
	}
}

// dialed is connection.Config.Dialed.
func (d *direct) dialed(c *net.TCPConn) (destination.Name, error) {
	target, err := d.table.Dialed(c)
	return destination.Name{Service: target.Service, Endpoint: target.Endpoint}, err
}

// app is connection.InboundConfig.App.
func (d *direct) app(dst netip.AddrPort) netip.AddrPort {
	if d.plan.AppAddress == podplan.AppLoopback {
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), dst.Port())
	}
	return dst
}

// reached is connection.InboundConfig.Reached.
func (d *direct) reached(dst netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(dst.Addr(), api.DirectPort(dst.Port()))
}

// serveNames answers DNS queries until ctx ends.
func (d *direct) serveNames(ctx context.Context) {
	d.names.Serve(ctx)
	d.table.Close()
}

// own tells the pod's addresses from others.
func (o Options) own() func(netip.Addr) bool {
	if o.podAddressesAreSet {
		return func(a netip.Addr) bool { return slices.Contains(o.PodAddresses(), a.Unmap()) }
	}
	return new(listen.OwnAddresses).Contains
}

// hasIPv4 tells whether the pod has an IPv4 address beside loopback ones.
func (o Options) hasIPv4() bool {
	return slices.ContainsFunc(o.PodAddresses(), func(a netip.Addr) bool { return a.Unmap().Is4() })
}

// notAt leaves out the pod's own name server: it would ask itself.
func notAt(servers []netip.AddrPort, own net.Addr) []netip.AddrPort {
	return slices.DeleteFunc(slices.Clone(servers), func(a netip.AddrPort) bool { return a == listen.AddrPort(own) })
}

// bindDirect binds the direct port of each port of the app, and the pod's name server.
func (l *listeners) bindDirect(a Addresses, d *podplan.Direct) error {
	host := ""
	if a.Inbound != "" {
		var err error
		if host, _, err = net.SplitHostPort(a.Inbound); err != nil {
			return err
		}
	}
	for port := range d.Ports.All() {
		bound, err := listen.Bind(net.JoinHostPort(host, strconv.Itoa(int(api.DirectPort(port)))))
		if err != nil {
			return fmt.Errorf("port %d, at which the proxy takes what is for port %d of the app: %w", api.DirectPort(port), port, err)
		}
		l.inbound = append(l.inbound, bound...)
	}
	return l.bindNames(cmp.Or(a.Resolver, net.JoinHostPort(api.ResolverIP, strconv.Itoa(api.ResolverPort))))
}

// bindNames binds the pod's name server by TCP and UDP.
func (l *listeners) bindNames(address string) error {
	bound, err := listen.Bind(address)
	if err == nil {
		l.names = bound[0]
		l.namesUDP, err = net.ListenPacket("udp", l.names.Addr().String())
	}
	return namesError(err, address)
}

// namesError says what is in the way of the pod's name server.
func namesError(err error, address string) error {
	switch {
	case errors.Is(err, syscall.EACCES), errors.Is(err, syscall.EPERM):
		return fmt.Errorf("the pod's DNS queries: %w: this pod has no redirect rules, and the proxy answers them at %s without any capability: "+
			"the sysctl net.ipv4.ip_unprivileged_port_start must be 0 in the pod's securityContext, as the function sets it (Linux 4.11 and later)", err, address)
	case errors.Is(err, syscall.EADDRINUSE):
		return fmt.Errorf("the pod's DNS queries: %w: another container of the pod answers at %s; let it listen on another address", err, address)
	case err != nil:
		return fmt.Errorf("the pod's DNS queries: %w", err)
	}
	return nil
}
