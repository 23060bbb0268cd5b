package apply

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"

	"github.com/meshless-dev/meshless/init/rules"
)

const (
	hintNetAdmin = "the init container needs the capability NET_ADMIN (securityContext.capabilities.add), and a namespace whose pod-security label admits it"
	hintModules  = "the node's kernel lacks a part of nftables: run \"modprobe -a nf_tables nft_chain_nat nft_redir\" on the node and list the three in " +
		"/etc/modules-load.d/meshless.conf; kernels before 5.2 have no nat in tables of family inet and cannot run this release"
)

// explain adds the likely cause to an error of the kernel.
func explain(operation string, err error) error {
	if isAny(err, unix.EPERM, unix.EACCES) {
		return fmt.Errorf("%s: %w: %s", operation, err, hintNetAdmin)
	}
	return fmt.Errorf("%s: %w", operation, err)
}

// explainNFTables does so for an operation of nftables. What the errors mean was read in net/netfilter of Linux: ENOENT for a chain type
// or expression whose module is missing; EOPNOTSUPP and EINVAL where nf_tables itself is; EPROTONOSUPPORT and
// EAFNOSUPPORT where there is no netlink for netfilter at all.
func explainNFTables(operation string, err error) error {
	if isAny(err, unix.ENOENT, unix.EOPNOTSUPP, unix.EINVAL, unix.EPROTONOSUPPORT, unix.EAFNOSUPPORT) {
		return fmt.Errorf("%s: %w: %s", operation, err, hintModules)
	}
	return explain(operation, err)
}

func isAny(err error, targets ...error) bool {
	for _, target := range targets {
		if errors.Is(err, target) {
			return true
		}
	}
	return false
}

// foreignMeshes maps what other meshes call their chains, and Istio its tables, to the mesh.
var foreignMeshes = []struct{ prefix, mesh string }{
	{"ISTIO_", "Istio"}, {"istio-proxy-", "Istio"}, {"PROXY_INIT_", "Linkerd"}, {"CONSUL_", "Consul"}, {"KUMA_MESH_", "Kuma"},
}

// refuseForeign is an error if another mesh redirects this pod: whose redirect comes first would be chance. Rules of the legacy
// iptables are not seen here; the function refuses pods that carry another mesh's sidecar.
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

func foreign(kind, name string) error {
	for _, f := range foreignMeshes {
		if strings.HasPrefix(name, f.prefix) {
			return fmt.Errorf("%s %q: %s redirects this pod already: take the pod out of that mesh, or out of this one with the annotation meshless.dev/inject: disabled", kind, name, f.mesh)
		}
	}
	return nil
}
