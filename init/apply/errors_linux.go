package apply

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
	"github.com/meshless-dev/meshless/internal/api"
)

const (
	hintNetAdmin = "the init container needs the capability NET_ADMIN (securityContext.capabilities.add), and a namespace whose pod-security label admits it"
	hintNetRaw   = "the legacy iptables needs the capability NET_RAW beside NET_ADMIN, which spec.init.backend: IPTables gives to the init container"
	hintIPTables = "the node's kernel lacks a part of iptables, too: run \"modprobe -a iptable_nat ip6table_nat iptable_filter ip6table_filter xt_owner xt_conntrack xt_REDIRECT xt_tcpudp ipt_REJECT ip6t_REJECT\" on the node and list the ten in " +
		"/etc/modules-load.d/meshless.conf; without those of ip6 the pod can have no IPv6 (the sysctl net.ipv6.conf.all.disable_ipv6=1)"
	hintModules = "the node's kernel lacks a part of nftables: run \"modprobe -a nf_tables nft_chain_nat nft_redir nft_ct nft_reject_inet\" on the node and list the five in " +
		"/etc/modules-load.d/meshless.conf; kernels before 5.2 have no nat in tables of family inet and cannot run this release"
	hintGVisor = "this pod runs in gVisor, whose network stack has no nftables, and iptables in part: run it with another runtimeClassName, or leave it out of the mesh with the " +
		"annotation " + api.InjectAnnotation + ": disabled"
)

// hintCapability says where NET_ADMIN comes from. To another user than root, what a manifest adds is of no use:
// Kubernetes has no ambient capabilities.
func hintCapability() string {
	if uid := os.Geteuid(); uid != 0 {
		return fmt.Sprintf("%s; a capability that is added is in force for root alone, and this is uid %d: set runAsUser: 0", hintNetAdmin, uid)
	}
	return hintNetAdmin
}

// explain adds the likely cause to an error of the kernel.
func explain(operation string, err error) error {
	if isAny(err, unix.EPERM, unix.EACCES) {
		return fmt.Errorf("%s: %w: %s", operation, err, hintCapability())
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// explainNFTables does so for an operation of nftables. What the errors mean was read in net/netfilter of Linux: ENOENT
// for a chain type or expression whose module is missing; EOPNOTSUPP and EINVAL where nf_tables itself is;
// EPROTONOSUPPORT and EAFNOSUPPORT where there is no netlink for netfilter at all.
func explainNFTables(operation string, err error) error {
	if noNFTables(err) {
		if inGVisor("/") {
			return fmt.Errorf("%s: %w: %s", operation, err, hintGVisor)
		}
		return fmt.Errorf("%s: %w: %s", operation, err, hintModules)
	}
	return explain(operation, err)
}

// explainIPTables does so for a program of iptables, whose texts say little: without NET_RAW the legacy one cannot
// "initialize" a table.
func explainIPTables(v variant, err error) error {
	switch {
	case !capable(unix.CAP_NET_ADMIN):
		return fmt.Errorf("%w: %s", err, hintCapability())
	case inGVisor("/"):
		return fmt.Errorf("%w: %s", err, hintGVisor)
	case v == variantLegacy && !capable(unix.CAP_NET_RAW):
		return fmt.Errorf("%w: %s", err, hintNetRaw)
	}
	return err
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// gVisorBuilt is the build that gVisor has in /proc/version, whatever release it claims to be (4.4.0, and since 2025
// 4.19.0-gvisor).
const gVisorBuilt = "#1 SMP Sun Jan 10 15:06:54 PST 2016"

// inGVisor tells whether the kernel is gVisor's: its marker file, for sandboxes that show it
// (gvisor.dev/gvisor/pkg/gvisordetect), or its version.
func inGVisor(root string) bool {
	if _, err := os.Stat(filepath.Join(root, "proc/gvisor/kernel_is_gvisor")); err == nil {
		return true
	}
	version, err := os.ReadFile(filepath.Join(root, "proc/version"))
	return err == nil && (bytes.Contains(version, []byte(gVisorBuilt)) || bytes.Contains(version, []byte("-gvisor ")))
}

// foreignMeshes maps what other meshes call their chains, and Istio its tables, to the mesh.
var foreignMeshes = []struct{ prefix, mesh string }{
	{"ISTIO_", "Istio"}, {"istio-proxy-", "Istio"}, {"PROXY_INIT_", "Linkerd"}, {"CONSUL_", "Consul"}, {"KUMA_MESH_", "Kuma"},
	{"OSM_PROXY_", "Open Service Mesh"}, {"APPMESH_", "AWS App Mesh"},
}

// refuseForeign is an error if another mesh redirects this pod: whose redirect comes first would be chance. Rules of
// the legacy iptables are seen by refuseForeignLegacy only, where the programs are; the function refuses pods that
// carry another mesh's sidecar.
func refuseForeign(conn *nftables.Conn) error {
	tables, err := conn.ListTables()
	if err != nil {
		return explainNFTables("list the nftables of the pod", err)
	}
	for _, t := range tables {
		if err := foreign("table", t.Name); err != nil {
			return err
		}
	}
	chains, err := conn.ListChains()
	if err != nil {
		return explainNFTables("list the nftables of the pod", err)
	}
	for _, c := range chains {
		if c.Table.Name == rules.Table && c.Table.Family == nftables.TableFamilyINet {
			continue
		}
		if err := foreign("chain", c.Name); err != nil {
			return err
		}
	}
	return nil
}

// refuseForeignNFT does so for a back end that may do without nftables: a kernel that has none holds no such rules.
func refuseForeignNFT() error {
	conn, err := nftables.New(nftables.WithSockOptions(configure))
	if err == nil {
		err = refuseForeign(conn)
	}
	if noNFTables(err) {
		return nil
	}
	return err
}

// refuseForeignLegacy does so for the tables of the legacy iptables, as far as the image has its programs and the
// container may run them.
func (s system) refuseForeignLegacy() error {
	if s.program(variantLegacy, rules.IPv4, "save") == "" || !capable(unix.CAP_NET_RAW) {
		return nil
	}
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		held, err := s.held(variantLegacy, f)
		if err != nil {
			return err
		}
		for _, table := range rules.Tables {
			for _, c := range held[table].Chains {
				if err := foreign("chain", c); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func foreign(kind, name string) error {
	for _, f := range foreignMeshes {
		if strings.HasPrefix(name, f.prefix) {
			return fmt.Errorf("%s %q: %s redirects this pod already: take the pod out of that mesh, or out of this one with the annotation meshless.dev/inject: disabled", kind, name, f.mesh)
		}
	}
	return nil
}
