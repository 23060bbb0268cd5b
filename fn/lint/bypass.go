package lint

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// defaults are the capabilities of containerd's default set that matter here (CRI-O leaves NET_RAW out). With them a
// process becomes the proxy's user, by itself or by a setuid file of that user, or it writes packets past the rules.
var defaults = []corev1.Capability{"SETUID", "NET_RAW", "CHOWN", "FOWNER"}

// bypasses are the capabilities by which a container can get around the redirect. The manifest adds them, or it says
// root and does not drop them. The user of an image is not known here.
func bypasses(w *manifest.Workload, s *corev1.SecurityContext) (ways []string) {
	if canRewrite(s) {
		return nil // said already
	}
	if holds(w, s, "SETUID") {
		ways = append(ways, "SETUID")
	}
	if holds(w, s, "NET_RAW") {
		ways = append(ways, "NET_RAW")
	}
	if makesSetuid(w, s) {
		ways = append(ways, "CHOWN with FOWNER")
	}
	return ways
}

// makesSetuid tells whether a container can give a program of its own to the proxy's user and set its setuid bit, and
// run it with effect.
func makesSetuid(w *manifest.Workload, s *corev1.SecurityContext) bool {
	escalates := s == nil || s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation
	return escalates && holds(w, s, "CHOWN") && holds(w, s, "FOWNER")
}

// checkProcesses warns of containers that see the proxy's process, and can become its user or look into any process.
// They read what the proxy reads and holds: the age identity and the key.
func checkProcesses(w *manifest.Workload, r *report.Report) {
	shared := ""
	switch share := w.Pod.Spec.ShareProcessNamespace; {
	case share != nil && *share:
		shared = "spec.shareProcessNamespace"
	case w.Pod.Spec.HostPID: // it shows those of the node's other pods as well
		shared = "spec.hostPID"
	default:
		return
	}
	for _, c := range w.Containers() {
		s := c.SecurityContext
		var ways []string
		switch {
		case s != nil && s.Privileged != nil && *s.Privileged:
			ways = append(ways, "privileged")
		default:
			for _, capability := range []corev1.Capability{"SYS_PTRACE", "SETUID"} {
				if holds(w, s, capability) {
					ways = append(ways, string(capability))
				}
			}
			if makesSetuid(w, s) {
				ways = append(ways, "CHOWN with FOWNER")
			}
		}
		if len(ways) > 0 {
			r.Warn(w.Object, w.Field(shared), "lets container %q (%s) read the files and the memory of the proxy, which hold the key and the age identity; take one of the two out",
				c.Name, enumerate(ways))
		}
	}
}

// holds tells whether the manifest gives a container a capability. To another user than root it is not in force.
func holds(w *manifest.Workload, s *corev1.SecurityContext, c corev1.Capability) bool {
	var user *int64
	if w.Pod.Spec.SecurityContext != nil {
		user = w.Pod.Spec.SecurityContext.RunAsUser
	}
	if s == nil {
		s = &corev1.SecurityContext{}
	}
	if s.RunAsUser != nil {
		user = s.RunAsUser
	}
	if user != nil && *user != 0 {
		return false
	}
	return adds(s, c) || user != nil && slices.Contains(defaults, c) && !drops(s, c)
}

func canRewrite(s *corev1.SecurityContext) bool {
	return s != nil && (s.Privileged != nil && *s.Privileged || adds(s, "NET_ADMIN"))
}

// adds tells whether a container asks for a capability, by name or with ALL. Container runtimes take names in any case
// (containerd's WithCapabilities), and CRI-O with the prefix that the kernel's documentation has.
func adds(s *corev1.SecurityContext, c corev1.Capability) bool {
	if s.Capabilities == nil {
		return false
	}
	return slices.ContainsFunc(s.Capabilities.Add, func(x corev1.Capability) bool {
		return strings.EqualFold(string(x), "ALL") || sameCapability(x, c) || sameCapability(x, "CAP_"+c)
	})
}

// drops tells whether a container does without a capability. With the prefix, to containerd it is another, which nobody
// has.
func drops(s *corev1.SecurityContext, c corev1.Capability) bool {
	return s.Capabilities != nil && slices.ContainsFunc(s.Capabilities.Drop, func(x corev1.Capability) bool { return sameCapability(x, "ALL") || sameCapability(x, c) })
}

// sameCapability compares two names of capabilities as container runtimes do: in any case.
func sameCapability(a, b corev1.Capability) bool { return strings.EqualFold(string(a), string(b)) }

// enumerate is "a, b and c".
func enumerate(words []string) string {
	last := len(words) - 1
	if last == 0 {
		return words[0]
	}
	return strings.Join(words[:last], ", ") + " and " + words[last]
}
