//go:build linux

package lab

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
)

// Lookup finds the addresses of a family, 4 or 6, of a full name, by the name server of the pod's apps and from inside
// the pod.
func (p *Pod) Lookup(ctx context.Context, name string, family int) ([]netip.Addr, error) {
	server, err := p.nameServer()
	if err != nil {
		return nil, err
	}
	return resolver(p.NS, server).LookupNetIP(ctx, fmt.Sprintf("ip%d", family), strings.TrimSuffix(name, ".")+".")
}

// nameServer is the one that the resolv.conf of the pod's apps names: the kubelet's file, or one that is mounted in its
// place.
func (p *Pod) nameServer() (string, error) {
	file := filepath.Join(p.dir, "resolv.conf")
	for _, c := range p.spec.Containers {
		for _, m := range c.VolumeMounts {
			if v := p.volumes[m.Name]; m.MountPath == "/etc/resolv.conf" && v != nil {
				file = filepath.Join(v.dir, m.SubPath)
			}
		}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == "nameserver" {
			return words[1], nil
		}
	}
	return "", fmt.Errorf("%s names no name server", file)
}

// DNS is the address of the cluster's name server.
func (l *Lab) DNS() netip.Addr { return l.dns }
