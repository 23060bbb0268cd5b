//go:build linux

package stage

import (
	"net/netip"
	"os"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/lab"
)

// ClearMarker is in the requests of the control: two pods outside of the mesh.
const ClearMarker = "the-marker-in-the-clear"

// control is two plain pods of which one asks the other, so that a search of the wire that finds nothing could have.
const control = `
apiVersion: v1
kind: Pod
metadata: {name: plain-server, labels: {app: plain-server}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{name: app, image: "meshless-test/app:latest", imagePullPolicy: IfNotPresent, args: [serve, --port, "8080"]}]
---
apiVersion: v1
kind: Service
metadata: {name: plain-server}
spec: {selector: {app: plain-server}, ports: [{port: 8080}]}
---
apiVersion: v1
kind: Pod
metadata: {name: plain-caller, labels: {app: plain-caller}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - name: caller
      image: meshless-test/app:latest
      imagePullPolicy: IfNotPresent
      args: [load, --rate, "1", --port, "8090", "http://plain-server:8080/"]
      env: [{name: MARKER, value: ` + ClearMarker + `}]
`

// Wire is what is looked for among all frames of this machine, from WatchWire to WantSecret.
type Wire struct {
	search  *lab.Search // nil where the pods are elsewhere
	markers []string
}

// WatchWire starts to look for the markers. The control goes into the namespace.
func WatchWire(t *testing.T, namespace string, markers ...string) *Wire {
	t.Helper()
	Must(t, control, "-n", namespace, "apply", "-f", "-")
	Ready(t, namespace, "pod/plain-server", "pod/plain-caller")
	w := &Wire{markers: markers}
	ip, err := netip.ParseAddr(Pod(t, namespace, "plain-server").Status.PodIP)
	if err != nil {
		t.Fatal(err)
	}
	if Here(t, ip) && os.Geteuid() == 0 {
		w.search = lab.SearchHost(t, append([]string{ClearMarker}, markers...)...)
	}
	return w
}

// WantSecret wants none of the markers on the wire, and that of the control. allowed are ways on which they may pass:
// from outside of the mesh to a port that takes plaintext.
func (w *Wire) WantSecret(t *testing.T, allowed ...string) {
	t.Helper()
	if w.search == nil {
		return
	}
	w.search.Stop()
	t.Logf("%d frames, %d missed; in the clear: %v", w.search.Frames, w.search.Missed(), w.search.Seen[ClearMarker])
	if w.search.Missed() > 0 {
		t.Errorf("%d frames could not be looked at", w.search.Missed())
	}
	if len(w.search.Seen[ClearMarker]) == 0 {
		t.Error("the requests of the plain pods were not seen: this test could not fail")
	}
	for _, marker := range w.markers {
	ways:
		for way, n := range w.search.Seen[marker] {
			for _, part := range allowed {
				if strings.Contains(way, part) {
					continue ways
				}
			}
			t.Errorf("%d frames with %q passed in the clear: %s; the first of all at %s", n, marker, way, w.search.First[marker])
		}
	}
}

// WantEncrypted wants that the proxies of the pods opened no connection in the clear and took none.
func WantEncrypted(t *testing.T, namespace, selector string) {
	t.Helper()
	for _, p := range Pods(t, namespace, selector) {
		metrics := Metrics(t, namespace, p.Name)
		if n := Opened(t, metrics, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s took %v connections in the clear", p.Name, n)
		}
		for _, security := range []string{"plaintext", "passthrough"} {
			if n := Opened(t, metrics, "outbound", security); n > 0 {
				t.Errorf("%s opened %v connections as %s", p.Name, n, security)
				t.Logf("%s", Must(t, "", "-n", namespace, "logs", p.Name, "-c", "meshless-proxy", "--tail=40"))
			}
		}
	}
}
