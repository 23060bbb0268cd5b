//go:build e2e && linux

package helm

import (
	"bytes"
	"compress/gzip"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
)

// orders is a chart of our own with all that charts have: a subchart, a StatefulSet, a Job, hooks, a test, a value by
// lookup, a CRD.
const orders = "testdata/orders"

// due is when certificates are made that are to be renewed by now.
var due = time.Now().Add(-20 * 24 * time.Hour)

// TestLife goes through the life of a release; each step goes on from what the one before left.
func TestLife(t *testing.T) {
	removeCRD(t)
	eachHelm(t, func(t *testing.T, h *helm) {
		r := newRelease(t, h, "helm-life", orders, "")
		for _, step := range []struct {
			name string
			test func(*testing.T, *release)
		}{
			{"without certificates nothing is installed", testMissing},
			{"install", testInstall},
			{"helm test", testTest},
			{"an upgrade of nothing changes nothing", testAgain},
			{"a changed value replaces one workload's pods", testValue},
			{"renewal replaces no pod", testRenewal},
			{"a failed upgrade is rolled back", testFailedUpgrade},
			{"rollback takes a revocation back", testRevocation},
			{"what others changed is put right", testDrift},
			{"uninstall", testUninstall},
		} {
			if !t.Run(step.name, func(t *testing.T) { step.test(t, r) }) {
				return
			}
		}
	})
}

// removeCRD removes at the end what Helm leaves.
func removeCRD(t *testing.T) {
	t.Cleanup(func() { stage.Must(t, "", "delete", "--ignore-not-found", "-f", orders+"/crds") })
}

func testMissing(t *testing.T, r *release) {
	if out, err := r.tryUpgrade(t); err == nil {
		t.Errorf("without certificates Helm installs:\n%s", out)
	}
	if out, err := r.try(t, "status", "my"); err == nil {
		t.Errorf("there is a release:\n%s", out)
	}
}

func testInstall(t *testing.T, r *release) {
	r.issue(t, due)
	if out := r.upgrade(t, "--wait-for-jobs"); !strings.Contains(out, "web answers on http://web."+r.namespace) {
		t.Errorf("the notes are missing:\n%s", out)
	}
	wantMeshed(t, r, true)
	if told, err := r.meshless(t, r.deployed(t), "verify", "-"); err != nil {
		t.Errorf("verify: %v\n%s", err, told)
	}
	wantSealed(t, r)
	stage.Must(t, "", "get", "crd", "orders.helm.meshless.test")
}

// testTest: a test pod is a hook, so it is in the mesh with Helm 4 alone.
func testTest(t *testing.T, r *release) {
	out, err := r.try(t, "test", "my", "--logs", "--timeout=60s")
	if (err == nil) != r.hooks {
		t.Errorf("helm test: %v\n%s", err, out)
	}
	pod := stage.Pod(t, r.namespace, "connection")
	if meshed := pod.Annotations[api.WorkloadAnnotation] != ""; meshed != r.hooks {
		t.Errorf("the test pod is in the mesh: %v", meshed)
	}
}

// wantMeshed wants all pods of the release in the mesh, or none.
func wantMeshed(t *testing.T, r *release, want bool) {
	t.Helper()
	pods := stage.Pods(t, r.namespace, "app in (web,store,load)")
	if len(pods) < 4 {
		t.Errorf("only %d pods", len(pods))
	}
	for _, pod := range pods {
		if got := pod.Annotations[api.WorkloadAnnotation] != ""; got != want && pod.DeletionTimestamp == nil {
			t.Errorf("%s is in the mesh: %v", pod.Name, got)
		}
	}
}

// wantSealed wants the release, as Helm stores it, to hold sealed keys alone.
func wantSealed(t *testing.T, r *release) {
	t.Helper()
	var secrets corev1.SecretList
	if err := json.Unmarshal([]byte(stage.Must(t, "", "-n", r.namespace, "get", "secrets", "-l", "owner=helm", "-o", "json")), &secrets); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets.Items {
		stored, err := stored(secret.Data["release"])
		if err != nil {
			t.Fatalf("%s: %v", secret.Name, err)
		}
		if strings.Contains(stored, "AGE-SECRET-KEY") || strings.Contains(stored, "PRIVATE KEY-----") {
			t.Errorf("%s holds a key in the clear", secret.Name)
		}
		if !strings.Contains(stored, api.SealedKeyFile) || strings.Contains(stored, "kind: CertificateAuthority") {
			t.Errorf("%s does not hold what was rendered, or too much:\n%s", secret.Name, stored)
		}
	}
}

// stored is a release as Helm's Secret holds it, with the values of its Secrets decoded beside it.
func stored(data []byte) (string, error) {
	packed, err := base64.StdEncoding.DecodeString(string(data))
	if err != nil {
		return "", err
	}
	unpacked, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(unpacked)
	for word := range strings.FieldsSeq(strings.ReplaceAll(string(text), `\n`, " ")) {
		if value, err := base64.StdEncoding.DecodeString(word); err == nil && len(value) > 40 {
			text = append(text, value...)
		}
	}
	return string(text), err
}

// versions are what changes when somebody writes an object of the release, by kind and name: of those whose status
// controllers write, the generation.
func versions(t *testing.T, r *release) map[string]string {
	t.Helper()
	var list struct {
		Items []struct {
			Kind     string
			Metadata metav1.ObjectMeta
		}
	}
	if err := json.Unmarshal([]byte(stage.Must(t, "", "-n", r.namespace, "get", "deployments,statefulsets,jobs,services,secrets,configmaps", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, item := range list.Items {
		name, version := item.Kind+"/"+item.Metadata.Name, item.Metadata.ResourceVersion
		if item.Metadata.Generation > 0 {
			version = fmt.Sprint("generation ", item.Metadata.Generation)
		}
		if item.Metadata.Labels["owner"] != "helm" {
			all[name] = version
		}
	}
	return all
}

// changed are the objects that differ.
func changed(before, now map[string]string) (names []string) {
	for name := range now {
		if now[name] != before[name] {
			names = append(names, name)
		}
	}
	for name := range before {
		if _, still := now[name]; !still {
			names = append(names, name+" is gone")
		}
	}
	slices.Sort(names)
	return names
}

// testAgain: a dry run on the server shows the bytes that are there, and an upgrade with them writes no object. Values
// that a chart draws by lookup come by a dry run on the server alone.
func testAgain(t *testing.T, r *release) {
	manifest, before, pods := r.manifest(t), versions(t, r), r.pods(t, "web", "store", "load")
	dry := r.upgrade(t, "--dry-run=server")
	_, dry, _ = strings.Cut(dry, "MANIFEST:\n")
	dry, _, _ = strings.Cut(dry, "\nNOTES:")
	if diff := cmp.Diff(strings.TrimSpace(manifest), strings.TrimSpace(dry)); diff != "" {
		t.Errorf("a dry run shows something else:\n%s", diff)
	}
	r.upgrade(t)
	if diff := cmp.Diff(manifest, r.manifest(t)); diff != "" {
		t.Errorf("the manifest changed:\n%s", diff)
	}
	if diff := changed(before, versions(t, r)); diff != nil {
		t.Errorf("written: %v", diff)
	}
	wantSamePods(t, pods, r.pods(t, "web", "store", "load"))
	if revision, status := r.revision(t); revision != 2 || status != "deployed" {
		t.Errorf("revision %d is %s", revision, status)
	}
}

func wantSamePods(t *testing.T, before, now map[string]int32) {
	t.Helper()
	if diff := cmp.Diff(before, now); diff != "" {
		t.Errorf("pods changed:\n%s", diff)
	}
}

func testValue(t *testing.T, r *release) {
	before, web, others := versions(t, r), r.pods(t, "web"), r.pods(t, "store", "load")
	r.set("greeting=again")
	if told := r.issue(t, due); !strings.Contains(told, "nothing is due") {
		t.Errorf("issue says %s", told)
	}
	r.upgrade(t)
	if diff := cmp.Diff([]string{"Deployment/web"}, changed(before, versions(t, r))); diff != "" {
		t.Errorf("written:\n%s", diff)
	}
	wantSamePods(t, others, r.pods(t, "store", "load"))
	for pod := range r.pods(t, "web") {
		if _, old := web[pod]; old {
			t.Errorf("%s was not replaced", pod)
		}
	}
}

func testRenewal(t *testing.T, r *release) {
	before, pods := versions(t, r), r.pods(t, "web", "store", "load")
	r.issue(t, time.Now())
	r.upgrade(t)
	for _, name := range changed(before, versions(t, r)) {
		if !strings.HasPrefix(name, "Secret/meshless-") {
			t.Errorf("a renewal writes %s", name)
		}
	}
	leaf := stage.Read(t, r.manifest(t)).Leaves[r.id("web")]
	if time.Until(leaf.NotAfter) < 20*24*time.Hour {
		t.Errorf("the leaf was not renewed: %v", leaf.NotAfter)
	}
	r.awaitLeaf(t, leaf.NotAfter)
	wantSamePods(t, pods, r.pods(t, "web", "store", "load"))
}

// id is the identity of one of the Deployments.
func (r *release) id(deployment string) string {
	return "spiffe://" + api.DefaultDomain + "/ns/" + r.namespace + "/deployment/" + deployment
}

// awaitLeaf waits until the pods of web use a leaf that expires then.
func (r *release) awaitLeaf(t *testing.T, expires time.Time) {
	t.Helper()
	r.nudge(t)
	stage.Poll(t, 150*time.Second, func() error {
		for _, pod := range stage.Pods(t, r.namespace, "app=web") {
			if got := stage.Metric(t, stage.Metrics(t, r.namespace, pod.Name), "meshless_leaf_not_after_timestamp_seconds"); got != float64(expires.Unix()) {
				return fmt.Errorf("%s uses a leaf until %v, want %d", pod.Name, got, expires.Unix())
			}
		}
		return nil
	})
}

// nudge has the kubelet look at the pods' files now: it does at every change of a pod, and once a minute.
func (r *release) nudge(t *testing.T) {
	t.Helper()
	look := fmt.Sprintf("helm.test/look=%d", time.Now().UnixNano())
	stage.Eventually(t, func() error { // a pod that ends may go between kubectl's look and its change
		_, err := stage.Kubectl("", "-n", r.namespace, "annotate", "pods", "--overwrite", "-l", "app in (web,store,load)", look)
		return err
	})
}

// testFailedUpgrade: what cannot start is taken back, and with it all that came in the same revision.
func testFailedUpgrade(t *testing.T, r *release) {
	manifest, web := r.manifest(t), r.pods(t, "web")
	out, err := r.tryUpgrade(t, r.atomic, "--set=image=meshless-test/none:v1", "--timeout=8s")
	if err == nil {
		t.Fatalf("Helm upgrades to an image that is not there:\n%s", out)
	}
	if _, status := r.revision(t); status != "deployed" {
		t.Errorf("the release is %s after %v", status, err)
	}
	if diff := cmp.Diff(manifest, r.manifest(t)); diff != "" {
		t.Errorf("the manifest is another one:\n%s", diff)
	}
	stage.Rollout(t, r.namespace, "deployment/web")
	wantSamePods(t, web, r.pods(t, "web"))
}

// testRevocation: a rollback applies the mesh map of the older revision, which does not list the revoked key. Proxies
// that run go on refusing it, and warn; new ones accept it. verify with the CertificateAuthority of Git sees it, and an
// upgrade mends it.
func testRevocation(t *testing.T, r *release) {
	stolen, err := stage.Read(t, r.manifest(t)).Open(r.id("load"), r.folder.Cluster)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.knock(t, stolen); err != nil {
		t.Fatalf("before it is revoked, the key is refused: %v", err)
	}
	pods := r.pods(t, "web", "store", "load")
	safe, _ := r.revision(t)
	r.folder.Meshless(t, time.Now(), "revoke", r.folder.Dir, "deployment/load")
	r.upgrade(t)
	r.nudge(t)
	r.awaitKnock(t, stolen, false)
	if told, err := r.inGit(t); err != nil {
		t.Errorf("what was just deployed is behind Git: %v\n%s", err, told)
	}

	if told, err := r.inGit(t, "--revision", fmt.Sprint(safe)); err == nil || !strings.Contains(told, "revoked") {
		t.Errorf("before a rollback to it, verify says of revision %d: %v\n%s", safe, err, told)
	}
	r.rollback(t, safe)
	r.nudge(t)
	for _, pod := range stage.Pods(t, r.namespace, "app=web") {
		stage.Poll(t, 150*time.Second, func() error {
			log, err := stage.Kubectl("", "-n", r.namespace, "logs", pod.Name, "-c", api.ProxyName)
			if err == nil && !strings.Contains(log, "revoked keys are no longer listed") {
				err = errors.New(pod.Name + " does not warn of the revocation that is gone")
			}
			return err
		})
	}
	r.awaitKnock(t, stolen, false)
	wantSamePods(t, pods, r.pods(t, "web", "store", "load"))
	stage.Must(t, "", "-n", r.namespace, "rollout", "restart", "deployment/web")
	stage.Rollout(t, r.namespace, "deployment/web")
	r.awaitKnock(t, stolen, true)

	r.upgrade(t)
	r.nudge(t)
	r.awaitKnock(t, stolen, false)
	if told, err := r.inGit(t); err != nil {
		t.Errorf("after an upgrade, what is deployed is behind Git: %v\n%s", err, told)
	}
}

// inGit holds what is deployed, or a revision, against the CertificateAuthority in Git.
func (r *release) inGit(t *testing.T, revision ...string) (string, error) {
	t.Helper()
	return r.meshless(t, r.deployed(t, revision...), "verify", "--ca", r.folder.Dir+"/mtls/ca.yaml", "-")
}

// knock asks every pod of web with a certificate.
func (r *release) knock(t *testing.T, certificate tls.Certificate) error {
	t.Helper()
	for _, pod := range stage.Pods(t, r.namespace, "app=web") {
		ip, err := netip.ParseAddr(pod.Status.PodIP)
		if err != nil {
			return err
		}
		if _, err := stage.Knock(t, stage.Replica{IP: ip}, certificate); err != nil && pod.DeletionTimestamp == nil {
			return err
		}
	}
	return nil
}

// awaitKnock waits until the key is accepted, or refused.
func (r *release) awaitKnock(t *testing.T, certificate tls.Certificate, accepted bool) {
	t.Helper()
	stage.Poll(t, 150*time.Second, func() error {
		err := r.knock(t, certificate)
		switch {
		case accepted:
			return err
		case err == nil:
			return errors.New("the revoked key is accepted")
		}
		return nil
	})
}

// testDrift changes the proxy's image by hand. Helm 3 compares with what is there, and puts it right.
// Helm 4, which applies on the server, says whose fields they are, and takes them back with --force-conflicts.
func testDrift(t *testing.T, r *release) {
	const stray = "meshless-test/none:v2"
	stage.Must(t, "", "-n", r.namespace, "patch", "deployment", "web", "--type=strategic", "-p",
		`{"spec": {"paused": true, "template": {"spec": {"initContainers": [{"name": "meshless-proxy", "image": "`+stray+`"}]}}}}`)
	_, err := r.tryUpgrade(t)
	if r.name == "helm4" {
		if err == nil || !strings.Contains(err.Error(), "conflict") {
			t.Errorf("over what somebody changed: %v", err)
		}
		r.upgrade(t, "--force-conflicts")
	} else if err != nil {
		t.Error(err)
	}
	stage.Must(t, "", "-n", r.namespace, "rollout", "resume", "deployment/web")
	stage.Rollout(t, r.namespace, "deployment/web")
	for _, pod := range stage.Pods(t, r.namespace, "app=web") {
		for _, c := range pod.Spec.InitContainers {
			if c.Image == stray {
				t.Errorf("%s runs %s", pod.Name, c.Image)
			}
		}
	}
}

// testUninstall: the namespace's identity stays, and the CRD, and what Helm never removes: hooks.
func testUninstall(t *testing.T, r *release) {
	r.run(t, "uninstall", "my", "--wait", "--timeout=60s")
	left := slices.DeleteFunc(slices.Sorted(maps.Keys(versions(t, r))), func(name string) bool { return name == "ConfigMap/kube-root-ca.crt" })
	if diff := cmp.Diff([]string{"Secret/meshless-identity"}, left); diff != "" {
		t.Errorf("left behind:\n%s", diff)
	}
	stage.Must(t, "", "get", "crd", "orders.helm.meshless.test")
	stage.Eventually(t, func() error { // Helm 4 does not wait for what the objects owned
		if pods := stage.Pods(t, r.namespace, ""); len(pods) != 1 || pods[0].Name != "connection" {
			return fmt.Errorf("%d pods are left, want that of the test", len(pods))
		}
		return nil
	})
}
