package kernel

import (
	"crypto/x509"
	"encoding/pem"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
)

// TestLeavesNameTheirServices: a leaf names the Services that its workload may stand behind, and no other. A client
// that takes a leaf's word for it, since its map is older, takes that of the authority.
func TestLeavesNameTheirServices(t *testing.T) {
	w := world{}
	pkg := example.Copy(t, "../../examples/pod")
	pkg.Write(t, "pod.yaml", w.serverManifests("servers", false)+clientManifests("one")+clientManifests("wide"))
	pkg.Issue(t, time.Now())
	named := map[string][]string{}
	for _, secret := range parse(t, pkg.Render(t)).Secrets {
		block, _ := pem.Decode(secret.Data[api.LeafFile])
		if block == nil {
			continue
		}
		leaf, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		named[leaf.URIs[0].Path] = leaf.DNSNames
	}
	want := map[string][]string{"/ns/data/deployment/lone": nil, "/ns/data/deployment/one": nil, "/ns/shop/deployment/wide": nil}
	for _, s := range selectors {
		for _, service := range []string{string(s), string(s) + "-all"} {
			path := "/ns/data/" + strings.ToLower(kindOf(s)) + "/" + string(s)
			want[path] = append(want[path], service+".data", service+".data.svc", service+".data.svc.cluster.local")
		}
	}
	if len(named) != len(want) {
		t.Errorf("there are leaves of %v, want those of %v", named, want)
	}
	for path, services := range want {
		if got := named[path]; !slices.Equal(slices.Sorted(slices.Values(got)), slices.Sorted(slices.Values(services))) {
			t.Errorf("the leaf of %s names %q, want %q", path, got, services)
		}
	}
}
