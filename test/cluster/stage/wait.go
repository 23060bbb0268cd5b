package stage

import (
	"net"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/program"
)

// Poll tries until it succeeds, and fails the test with the last error when the time is over.
func Poll(t *testing.T, within time.Duration, try func() error) {
	t.Helper()
	for deadline := time.Now().Add(within); ; time.Sleep(250 * time.Millisecond) {
		err := try()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %v", within, err)
		}
	}
}

// Eventually is Poll for a minute.
func Eventually(t *testing.T, try func() error) {
	t.Helper()
	Poll(t, time.Minute, try)
}

// Here tells whether the pods' addresses are of networks of this machine, so that their packets pass it and their ports
// can be reached from it. Elsewhere the proxies' metrics alone judge; with CI=true that is a failure.
func Here(t *testing.T, pods ...netip.Addr) bool {
	t.Helper()
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		t.Fatal(err)
	}
	for _, ip := range pods {
		if slices.ContainsFunc(addrs, func(a net.Addr) bool { n, ok := a.(*net.IPNet); return ok && n.Contains(ip.AsSlice()) }) {
			continue
		}
		if program.CI() {
			t.Fatalf("the pod with address %s is not on this machine, and CI=true: run it on a cluster of test/up.sh", ip)
		}
		t.Logf("the pod with address %s is not on this machine: what is seen and done from outside of the pods is left out", ip)
		return false
	}
	return true
}
