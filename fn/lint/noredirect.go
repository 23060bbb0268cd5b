package lint

import (
	"cmp"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// warnNoRedirect warns of what passes beside the proxy of a pod without redirect rules, as far as its manifest shows:
// whatever is dialed without a name that the proxy has answered, and whatever is no TCP.
func warnNoRedirect(m *manifest.Model, w *manifest.Workload, r *report.Report) {
	if !w.Plan.NoRedirect() {
		return
	}
	for field, c := range w.Containers() {
		warnLiterals(w, field, c, r)
		warnAnnounced(w, field, c, r)
		warnDatagramPorts(w, field, c, r)
		warnTakenPorts(m, w, field, c, r)
	}
	warnOtherNames(w, r)
}

// warnLiterals warns of addresses in the environment and the command line of a container.
func warnLiterals(w *manifest.Workload, field string, c corev1.Container, r *report.Report) {
	for at, text := range texts(c) {
		if found := literals(text); len(found) > 0 {
			r.Warn(w.Object, field+"."+at, "names %s by address: no name is asked for, so what container %q sends there passes beside the proxy, in plaintext, and a workload of the mesh refuses it. "+
				"Write the name of a Service; where that leads out of the mesh, it makes no difference", enumerate(found), c.Name)
		}
	}
}

// texts are what a container is told, by the field in the container.
func texts(c corev1.Container) func(yield func(field, text string) bool) {
	return func(yield func(field, text string) bool) {
		for i, text := range c.Command {
			if !yield(fmt.Sprintf("command[%d]", i), text) {
				return
			}
		}
		for i, text := range c.Args {
			if !yield(fmt.Sprintf("args[%d]", i), text) {
				return
			}
		}
		for i, e := range c.Env {
			if !yield(fmt.Sprintf("env[%d].value", i), e.Value) {
				return
			}
		}
	}
}

// serviceHost is a variable in which Kubernetes puts the address of a Service.
var serviceHost = regexp.MustCompile(`\b[A-Z][A-Z0-9_]*_SERVICE_HOST\b`)

// literals are the IP addresses in a text that somebody could dial in the network: of URLs, those with a port, private
// ones, and variables that hold one. The API server's is of no mesh.
func literals(text string) (found []string) {
	for _, variable := range serviceHost.FindAllString(text, -1) {
		if variable != "KUBERNETES_SERVICE_HOST" && !slices.Contains(found, variable) {
			found = append(found, variable)
		}
	}
	between := func(c rune) bool { return strings.ContainsRune(" \t\r\n,;=|&()<>{}'\"`", c) }
	for token := range strings.FieldsFuncSeq(text, between) {
		_, rest, isURL := strings.Cut(token, "://")
		if !isURL {
			rest = token
		}
		if end := strings.IndexAny(rest, "/?#"); end >= 0 {
			rest = rest[:end]
		}
		rest = rest[strings.LastIndexByte(rest, '@')+1:] // a user and a password
		at, err := netip.ParseAddrPort(rest)
		addr := at.Addr()
		if bare, failed := netip.ParseAddr(token); failed == nil && bare.IsPrivate() {
			addr, err = bare, nil
		}
		if err != nil && isURL {
			addr, err = netip.ParseAddr(strings.Trim(rest, "[]"))
		}
		if err == nil && crosses(addr.Unmap()) && !slices.Contains(found, rest) {
			found = append(found, rest)
		}
	}
	return found
}

// crosses tells whether an address can be another pod's or a Service's.
func crosses(addr netip.Addr) bool {
	return !addr.IsLoopback() && !addr.IsUnspecified() && !addr.IsLinkLocalUnicast() && !addr.IsMulticast()
}

// warnAnnounced warns of apps that know the address of their pod, and may tell others.
func warnAnnounced(w *manifest.Workload, field string, c corev1.Container, r *report.Report) {
	for i, e := range c.Env {
		if isPodIP(e) && !listensOn(c, e.Name) {
			r.Warn(w.Object, fmt.Sprintf("%s.env[%d].valueFrom.fieldRef", field, i), "tells container %q the address of its pod. What it announces by that address, clients without redirect rules dial beside their proxy, in plaintext, and are refused. "+
				"Let it announce its name, <pod>.<service>.<namespace> in a StatefulSet; where it only listens there, say so in an argument such as --listen=$(%s):8080", c.Name, e.Name)
		}
	}
}

func isPodIP(e corev1.EnvVar) bool {
	return e.ValueFrom != nil && e.ValueFrom.FieldRef != nil && slices.Contains([]string{"status.podIP", "status.podIPs"}, e.ValueFrom.FieldRef.FieldPath)
}

// listensOn tells whether a container is told to listen on the address in a variable: an argument or a variable that
// says listen or bind, by itself or in the argument before, has it.
func listensOn(c corev1.Container, variable string) bool {
	says := func(text string) bool {
		text = strings.ToLower(text)
		return strings.Contains(text, "listen") || strings.Contains(text, "bind")
	}
	reference := "$(" + variable + ")"
	line := slices.Concat(c.Command, c.Args)
	for i, text := range line {
		if strings.Contains(text, reference) && (says(text) || i > 0 && says(line[i-1])) {
			return true
		}
	}
	return slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool {
		return strings.Contains(e.Value, reference) && (says(e.Name) || says(e.Value))
	})
}

// warnDatagramPorts warns of ports that no proxy takes, and that the NetworkPolicy of the workload lets anybody reach.
// Those behind a Service are said there.
func warnDatagramPorts(w *manifest.Workload, field string, c corev1.Container, r *report.Report) {
	for i, p := range c.Ports {
		if !manifest.IsTCP(p.Protocol) && !slices.ContainsFunc(w.Services, func(s *manifest.Service) bool { return leadsTo(s, p) }) {
			r.Warn(w.Object, fmt.Sprintf("%s.ports[%d].protocol", field, i), "port %d of container %q is %s, which passes beside the proxy: in plaintext, and from anybody unless a NetworkPolicy of yours says otherwise. "+
				"Take the protocol that runs on TCP, or one with encryption of its own; or take the port out of the manifest, and the NetworkPolicy that is rendered shuts it", p.ContainerPort, c.Name, p.Protocol)
		}
	}
}

// leadsTo tells whether a port of a Service that is not of TCP leads to one of a container.
func leadsTo(s *manifest.Service, to corev1.ContainerPort) bool {
	return slices.ContainsFunc(s.Ports, func(p corev1.ServicePort) bool {
		if p.Protocol != to.Protocol {
			return false
		}
		if p.TargetPort.Type == intstr.String {
			return p.TargetPort.StrVal == to.Name
		}
		return cmp.Or(p.TargetPort.IntVal, p.Port) == to.ContainerPort
	})
}

// warnTakenPorts warns of ports on which an app may listen on every address of the pod, loopback among them: the proxy
// cannot listen there for Services that the app calls by the same port.
func warnTakenPorts(m *manifest.Model, w *manifest.Workload, field string, c corev1.Container, r *report.Report) {
	if w.Plan.Serve.Direct.AppAddress == podplan.AppLoopback ||
		slices.ContainsFunc(c.Env, func(e corev1.EnvVar) bool { return isPodIP(e) && listensOn(c, e.Name) }) {
		return
	}
	var taken netset.Ports
	names := map[string]bool{}
	for _, p := range c.Ports {
		port := uint16(p.ContainerPort)
		if dialed := dialedAt(m, w, port); manifest.IsTCP(p.Protocol) && len(dialed) > 0 {
			taken = taken.Union(netset.PortsOf(port))
			for _, name := range dialed {
				names[name] = true
			}
		}
	}
	if len(taken) > 0 {
		r.Warn(w.Object, field+".ports", "container %q listens on ports of Services: %s, on which others call %s. Where it listens on every address, the proxy cannot for these Services, and their names have no address in this pod. "+
			"If it calls them, give the app an address, by an argument such as --listen=$(POD_IP):%d (of status.podIP), or let it listen on 127.0.0.1 alone and set the annotation %s: %s, or give the Services other ports",
			c.Name, taken, some(slices.Sorted(maps.Keys(names))), taken[0].First, api.AppAddressAnnotation, podplan.AppLoopback)
	}
}

// dialedAt are the Services that clients dial at a port, but for those of the workload alone.
func dialedAt(m *manifest.Model, w *manifest.Workload, port uint16) (names []string) {
	for _, s := range m.Services {
		others := s.Headless() && w.Kind == "StatefulSet" || slices.ContainsFunc(s.Workloads, func(x *manifest.Workload) bool { return x != w })
		if others && isDialedAt(s, port) {
			names = append(names, s.Name+"."+s.Namespace)
		}
	}
	for name, ports := range m.Spec.Redirect.Services {
		if ports.Set().Contains(port) {
			names = append(names, name)
		}
	}
	return names
}

// some are the first of many names.
func some(names []string) string {
	const shown = 3
	if n := len(names); n > shown {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:shown], ", "), n-shown)
	}
	return enumerate(names)
}

// isDialedAt tells whether clients dial a Service at a port: its own, and where they get the addresses of pods, theirs.
func isDialedAt(s *manifest.Service, port uint16) bool {
	return slices.ContainsFunc(s.Ports, func(p corev1.ServicePort) bool {
		return manifest.IsTCP(p.Protocol) && (uint16(p.Port) == port ||
			s.Headless() && slices.ContainsFunc(s.Workloads, func(w *manifest.Workload) bool { return manifest.TargetPort(p, w) == port }))
	})
}

// warnOtherNames warns of names that are resolved beside the DNS of the cluster, so to addresses that the proxy does
// not stand for.
func warnOtherNames(w *manifest.Workload, r *report.Report) {
	for i, alias := range w.Pod.Spec.HostAliases {
		if addr, err := netip.ParseAddr(alias.IP); err == nil && crosses(addr.Unmap()) && len(alias.Hostnames) > 0 {
			r.Warn(w.Object, w.Field(fmt.Sprintf("spec.hostAliases[%d]", i)), "gives %s an address that the proxy has not answered: what is sent there passes beside it, in plaintext, and a workload of the mesh refuses it. "+
				"Use the name of a Service; where that leads out of the mesh, it makes no difference", enumerate(alias.Hostnames))
		}
	}
	const knows = "which need not know the mesh: of its Services they answer nothing, or an address that is dialed beside the proxy, in plaintext"
	switch config := w.Pod.Spec.DNSConfig; {
	case w.Pod.Spec.DNSPolicy == corev1.DNSDefault:
		r.Warn(w.Object, w.Field("spec.dnsPolicy"), "Default has the proxy ask the DNS servers of the node, %s. Use ClusterFirst", knows)
	case w.Pod.Spec.DNSPolicy == corev1.DNSNone:
		r.Warn(w.Object, w.Field("spec.dnsPolicy"), "None has the proxy ask the servers of dnsConfig, %s. Use ClusterFirst, unless they forward to the DNS of the cluster", knows)
	case config != nil && len(config.Nameservers) > 0:
		r.Warn(w.Object, w.Field("spec.dnsConfig.nameservers"), "has the proxy ask further DNS servers, %s. Take them out, or have the DNS of the cluster forward to them", knows)
	}
}
