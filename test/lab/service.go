//go:build linux

package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// serviceState is a Service with its addresses, both families.
type serviceState struct {
	corev1.Service
	ips       []netip.Addr // of the clusterIP; none when it has none
	manual    []Endpoint   // what SetEndpoints wrote
	misdirect *Pod         // answers instead of the endpoints, when set
}

func (s *serviceState) headless() bool { return s.Spec.ClusterIP == corev1.ClusterIPNone }

func (s *serviceState) alias() bool { return s.Spec.Type == corev1.ServiceTypeExternalName }

// Apply takes manifests as the API server does; Services get their addresses. Running pods see changed Secrets and
// ConfigMaps after their Sync. Changed pod templates do not restart anything: a test that cares compares the templates.
func (l *Lab) Apply(o *Objects) error {
	l.mu.Lock()
	l.objects = l.objects.merge(o)
	for _, key := range sortedKeys(o.Services) {
		l.addService(key, o.Services[key])
	}
	err, revision := l.syncServices(), l.revision
	l.mu.Unlock()
	if err != nil {
		return err
	}
	return l.awaitNames(revision)
}

// addService gives a new Service its addresses: those that it asks for, or the next ones. The caller holds mu.
func (l *Lab) addService(key string, service corev1.Service) {
	state := l.services[key]
	if state == nil {
		state = &serviceState{}
		l.services[key] = state
		l.lastService++
		state.ips = l.network.service(firstService + l.lastService)
		for i, ip := range service.Spec.ClusterIPs {
			if addr, err := netip.ParseAddr(ip); err == nil {
				state.ips[i] = addr
			}
		}
		if addr, err := netip.ParseAddr(service.Spec.ClusterIP); err == nil {
			state.ips[(family(addr)-4)/2] = addr
		}
	}
	state.Service = service
	if state.headless() || state.alias() {
		state.ips = nil
	}
}

// ServiceIP is the Service's address of the family, 4 or 6.
func (l *Lab) ServiceIP(namespace, name string, family int) netip.Addr {
	l.tb.Helper()
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := l.services[namespace+"/"+name]; s != nil && len(s.ips) > 0 {
		return s.ips[(family-4)/2]
	}
	l.tb.Fatalf("lab: Service %s/%s has no address", namespace, name)
	return netip.Addr{}
}

// syncServices tells the API and replaces the DNAT rules of every node, each in one transaction, as kube-proxy does.
// The caller holds mu.
func (l *Lab) syncServices() error {
	l.publish()
	for _, n := range l.nodes {
		if err := l.syncServicesOf(n); err != nil {
			return fmt.Errorf("node %d: %w", n.number, err)
		}
	}
	return nil
}

func (l *Lab) syncServicesOf(n *Node) error {
	roomy := func(conn *netlink.Conn) error {
		// Services of many ports are one large message, and one answer for each rule
		return errors.Join(conn.SetWriteBuffer(8<<20), conn.SetReadBuffer(8<<20))
	}
	conn, err := nftables.New(nftables.WithNetNSFd(int(n.handle)), nftables.WithSockOptions(roomy))
	if err != nil {
		return err
	}
	table := conn.AddTable(&nftables.Table{Family: nftables.TableFamilyINet, Name: "services"})
	conn.DelTable(table)
	conn.AddTable(table)
	for hook, number := range map[string]*nftables.ChainHook{"prerouting": nftables.ChainHookPrerouting, "output": nftables.ChainHookOutput} {
		chain := conn.AddChain(&nftables.Chain{Name: hook, Table: table, Type: nftables.ChainTypeNAT, Hooknum: number, Priority: nftables.ChainPriorityNATDest})
		for _, key := range sortedKeys(l.services) {
			if err := l.addRules(conn, chain, l.services[key]); err != nil {
				return fmt.Errorf("service %s: %w", key, err)
			}
		}
	}
	chain := conn.AddChain(&nftables.Chain{
		Name: "postrouting", Table: table, Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource,
	})
	for _, p := range l.pods {
		if p.node == n {
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: hairpin(p.IP4, n.ip4)})
			conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: hairpin(p.IP6, n.ip6)})
		}
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("service rules: %w", err)
	}
	return nil
}

func (l *Lab) addRules(conn *nftables.Conn, chain *nftables.Chain, s *serviceState) error {
	endpoints := l.published(s)
	if len(endpoints) == 0 {
		return nil
	}
	for _, port := range s.Spec.Ports {
		target := uint16(cmp.Or(port.TargetPort.IntVal, port.Port))
		if pod := endpoints[0].Pod; pod != nil {
			var err error
			if target, err = pod.containerPort(port); err != nil {
				return err
			}
		}
		for _, ip := range s.ips {
			if to := endpoints[0].ip(family(ip)); to.IsValid() {
				conn.AddRule(&nftables.Rule{Table: chain.Table, Chain: chain, Exprs: dnat(ip, uint16(port.Port), to, target)})
			}
		}
	}
	return nil
}

// dnat is: ip daddr FROM tcp dport PORT dnat to TO:TARGET (or ip6).
func dnat(from netip.Addr, port uint16, to netip.Addr, target uint16) []expr.Any {
	proto, offset, af := byte(unix.NFPROTO_IPV4), uint32(16), uint32(unix.NFPROTO_IPV4)
	if from.Is6() {
		proto, offset, af = unix.NFPROTO_IPV6, 24, unix.NFPROTO_IPV6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: uint32(from.BitLen() / 8)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: from.AsSlice()},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.Immediate{Register: 1, Data: to.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(target)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: af, RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}
}

// hairpin is: ip saddr POD ip daddr POD snat to NODE (or ip6). A Service led a pod back to itself; it would drop a
// packet from its own address that comes from outside, so kube-proxy gives it another source (KUBE-MARK-MASQ).
func hairpin(pod, node netip.Addr) []expr.Any {
	proto, source, dest, af := byte(unix.NFPROTO_IPV4), uint32(12), uint32(16), uint32(unix.NFPROTO_IPV4)
	if pod.Is6() {
		proto, source, dest, af = unix.NFPROTO_IPV6, 8, 24, unix.NFPROTO_IPV6
	}
	length := uint32(pod.BitLen() / 8)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{proto}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: source, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: pod.AsSlice()},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: dest, Len: length},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: pod.AsSlice()},
		&expr.Immediate{Register: 1, Data: node.AsSlice()},
		&expr.NAT{Type: expr.NATTypeSourceNAT, Family: af, RegAddrMin: 1},
	}
}

// containerPort is where the pod serves a port of a Service.
func (p *Pod) containerPort(port corev1.ServicePort) (uint16, error) {
	if port.TargetPort.Type == intstr.Int {
		if port.TargetPort.IntVal == 0 {
			return uint16(port.Port), nil
		}
		return uint16(port.TargetPort.IntVal), nil
	}
	for _, c := range p.spec.Containers {
		for _, named := range c.Ports {
			if named.Name == port.TargetPort.StrVal {
				return uint16(named.ContainerPort), nil
			}
		}
	}
	if len(p.spec.Containers) > 0 && len(p.spec.Containers[0].Ports) > 0 {
		// a misdirected Service names a port of another pod
		return uint16(p.spec.Containers[0].Ports[0].ContainerPort), nil
	}
	return 0, fmt.Errorf("pod %s has no port %q", p.Name, port.TargetPort.StrVal)
}

func family(ip netip.Addr) int {
	if ip.Is4() {
		return 4
	}
	return 6
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, strings.Compare)
	return keys
}

// ServicesOf are the Services of a namespace, by name.
func (l *Lab) ServicesOf(namespace string) map[string]corev1.Service {
	l.mu.Lock()
	defer l.mu.Unlock()
	found := map[string]corev1.Service{}
	for _, s := range l.services {
		if s.Namespace == namespace {
			found[s.Name] = s.Service
		}
	}
	return found
}
