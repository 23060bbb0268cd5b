package lint

import (
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

const passesBy = "so what is opened to it passes the proxy by, in plaintext. Let the app use the name of a Service, or set " + api.RedirectAnnotation + ": " + string(v1alpha1.RedirectRules)

// warnAddresses warns of addresses that the app of a pod without redirect rules does not get from DNS, as far as its
// manifest shows them.
func warnAddresses(w *manifest.Workload, r *report.Report) {
	for i, alias := range w.Pod.Spec.HostAliases {
		if addr, err := netip.ParseAddr(alias.IP); err == nil && !addr.IsLoopback() && !addr.IsUnspecified() {
			r.Warn(w.Object, w.Field(fmt.Sprintf("spec.hostAliases[%d]", i)), "gives %s the address %s without DNS, %s", strings.Join(alias.Hostnames, ", "), addr, passesBy)
		}
	}
	for field, c := range w.Containers() {
		if c.Name == api.ProxyName || c.Name == api.InitName {
			continue
		}
		for at, text := range texts(c) {
			if shown := shownAddress(text); shown != "" {
				r.Warn(w.Object, field+"."+at, "shows the address %s, %s", shown, passesBy)
			}
		}
	}
}

// texts are the values that a manifest gives to the processes of a container, by their fields.
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

// address is what may be an address, and not the network of one.
var address = regexp.MustCompile(`(?:^|[^0-9A-Za-z.:])([0-9]{1,3}(?:\.[0-9]{1,3}){3}|[0-9a-fA-F]{1,4}:[0-9a-fA-F:]*:[0-9a-fA-F:]*)(?:$|[^0-9A-Za-z./-])`)

// shownAddress is the first address in a text that may be one of the cluster's, which are private, or the variable that
// holds one; empty where there is none. That of the API server is of no mesh.
func shownAddress(text string) string {
	for _, name := range serviceHost.FindAllString(text, -1) {
		if name != "KUBERNETES_SERVICE_HOST" {
			return "in " + name
		}
	}
	for _, found := range address.FindAllStringSubmatch(text, -1) {
		if addr, err := netip.ParseAddr(found[1]); err == nil && addr.IsPrivate() {
			return addr.String()
		}
	}
	return ""
}
