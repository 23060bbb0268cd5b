package kernel

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/lab"
	"github.com/meshless-dev/meshless/test/program"
)

// editionBefore is the folder of its programs in $KBIN (test/env/edition.sh), and the tag of its images here: the
// manifests of both editions name the same one.
var editionBefore = "edition-" + env.EditionBefore()

// TestUpgrade renders a package by the edition before this one, and by this one on top: pods of both run side by side,
// as during a rollout. Each client reaches each server, by its Service and by its address, and nothing is to be read on
// a wire. Then the change is reverted, and the same holds with pods of the edition before, started anew.
func TestUpgrade(t *testing.T) {
	for _, version := range lab.CoreDNSVersions {
		t.Run(version, func(t *testing.T) { testUpgrade(t, version) })
	}
}

type upgrade struct {
	*lab.Lab
	speaker
	pkg  *example.Example
	pods map[string]map[string]*lab.Pod // by edition and workload
	said []*spoken

	version string // of CoreDNS
}

func testUpgrade(t *testing.T, version string) {
	program.InHistory(t, env.EditionBefore())
	meshless := program.Find(t, filepath.Join(editionBefore, "meshless"), "test/env/programs.sh builds it")
	u := &upgrade{Lab: lab.NewMeshless(t, nil, lab.CoreDNS(t, version), withEditionBefore(meshless)), speaker: newSpeaker(), version: version,
		pkg: example.Copy(t, "../../examples/pod"), pods: map[string]map[string]*lab.Pod{}}
	u.pkg.Write(t, "pod.yaml", storeWorkload("Deployment", dataNamespace, "store", "")+storeService(dataNamespace, "store", "selector: {app: store}", "")+
		storeWorkload("StatefulSet", dataNamespace, "set", "")+storeService(dataNamespace, "set-all", "selector: {app: set}, clusterIP: None", "")+
		clientManifests("one")+clientManifests("wide"))

	u.pkg.Program = meshless
	u.pkg.Issue(t, time.Now())
	before := t.TempDir()
	if err := os.CopyFS(before, os.DirFS(u.pkg.Dir)); err != nil {
		t.Fatal(err)
	}
	applyRendered(t, u.Lab, u.pkg, ofEditionBefore)
	u.start("before", 0)
	u.talkAll(t, "before")

	u.pkg.Program = ""
	u.pkg.Issue(t, time.Now())
	applyRendered(t, u.Lab, u.pkg, func(rendered string) string { return rendered })
	u.sync(t) // as the kubelet does: what pods of before have mounted is there still
	u.start("this", 1)
	u.talkAll(t, "before", "this")

	reverted := *u.pkg
	reverted.Dir, reverted.Program = before, meshless
	applyRendered(t, u.Lab, &reverted, ofEditionBefore)
	u.sync(t)
	u.start("reverted", 2)
	u.talkAll(t, "before", "this", "reverted")
	u.stopWatches(t)
	for _, s := range u.said {
		u.wantSilence(t, s)
	}
	t.Logf("%d conversations", len(u.said))
}

// withEditionBefore has the images of the edition before, under its tag.
func withEditionBefore(meshless string) lab.Option {
	image := func(name string, uid int) lab.Image {
		return lab.Image{Binary: filepath.Join(filepath.Dir(meshless), name), Entrypoint: "/" + name, UID: uid}
	}
	return lab.WithImages(map[string]lab.Image{
		ofEditionBefore(api.ProxyImage): image("meshless-proxy", api.DefaultUID),
		ofEditionBefore(api.InitImage):  image("meshless-init", 0),
	})
}

// ofEditionBefore gives our images in a text the tag of the edition before.
func ofEditionBefore(text string) string {
	for _, image := range []string{api.ProxyImage, api.InitImage} {
		name, _, _ := strings.Cut(image, ":")
		text = strings.ReplaceAll(text, image, name+":"+editionBefore)
	}
	return text
}

// start starts a pod of each workload, of an edition.
func (u *upgrade) start(edition string, ordinal int) {
	workloads := []string{"Deployment/data/store", "StatefulSet/data/set", "Deployment/data/one", "Deployment/shop/wide"}
	var requests []lab.PodRequest
	for _, w := range workloads {
		requests = append(requests, lab.PodRequest{Workload: w, PodOptions: lab.PodOptions{Ordinal: ordinal}})
	}
	u.pods[edition] = map[string]*lab.Pod{}
	for i, p := range u.StartAll(requests...) {
		u.pods[edition][workloads[i][strings.LastIndexByte(workloads[i], '/')+1:]] = p
		u.watch(u.Lab, p)
	}
}

// sync brings the files of every pod up to date.
func (u *upgrade) sync(t *testing.T) {
	t.Helper()
	for _, pods := range u.pods {
		for _, p := range pods {
			if err := p.Sync(); err != nil {
				t.Errorf("%s: %v", p.Name, err)
			}
		}
	}
}

// talkAll has each client of the editions talk to each server.
func (u *upgrade) talkAll(t *testing.T, editions ...string) {
	t.Helper()
	for _, server := range editions {
		for _, other := range editions { // the Service leads to this edition's pod alone
			u.pods[other]["store"].SetReady(other == server)
		}
		for _, edition := range editions {
			for _, client := range []string{"one", "wide"} {
				for _, family := range []int{4, 6} {
					for name, to := range map[string]netip.Addr{
						"Service": u.ServiceIP(dataNamespace, "store", family), "pod behind a Service": u.pods[server]["store"].IP(family),
						"pod of a StatefulSet": u.pods[server]["set"].IP(family),
					} {
						if name == "pod behind a Service" && u.version == lab.CoreDNS1120 && edition != "this" {
							continue // the fault of the edition before that this one mends: it sent plaintext
						}
						u.talk(t, fmt.Sprintf("client %s of %s, server of %s, %s, IPv%d", client, edition, server, name, family),
							u.pods[edition][client], netip.AddrPortFrom(to, reachPort))
					}
				}
			}
		}
	}
}

// talk wants one conversation to be held by mutual TLS. The watches are read at the end; until then the log tells.
func (u *upgrade) talk(t *testing.T, name string, client *lab.Pod, to netip.AddrPort) {
	t.Helper()
	s := u.speakTo(client, to)
	line := logged(t, client, s)
	if s.err != nil || line.Security != "mutual_tls" {
		t.Errorf("%s: %v; the client's proxy says %+v", name, s.err, line)
	}
	u.said = append(u.said, s)
}
