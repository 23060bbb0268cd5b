package sidecar

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/proxytest"
	"github.com/meshless-dev/meshless/test/testca"
)

// TestNamespace: an identity of another namespace than the pod's is refused, and the reason says how that came about.
func TestNamespace(t *testing.T) {
	noLeaks(t)
	files := workload(t, testca.New(t, proxytest.TrustDomain), "server")
	app := netip.MustParseAddrPort(appIP + ":1")
	startPod(t, serverIP, app, files.Sealed(t), func(o *Options) { o.Namespace = "prod" })
	for _, namespace := range []string{"other", "pro", "prod2"} {
		moved := startPod(t, otherIP, app, nil, func(o *Options) { o.Namespace = namespace })
		files.Sealed(t).Publish(t, moved.dir)
		eventually(t, "it is refused", func() bool {
			err := moved.Ready()
			return err != nil && strings.Contains(err.Error(), "in namespace "+namespace+", and its identity is "+proxytest.ID("server"))
		})
		if !strings.Contains(moved.logs.String(), "targetNamespace") || moved.identity.Current() != nil {
			t.Errorf("the log has no reason, or the identity is in use:\n%s", moved.logs.String())
		}
	}
}
