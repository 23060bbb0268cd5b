//go:build e2e && linux

package state

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/env"
)

const (
	redisNamespace = "state-redis"
	serversImage   = "meshless-test/servers:latest"
	marker         = "a-value-of-the-database"
)

// redisClient is who uses the database. The password is of the Secret that Argo CD would make.
const redisClient = `
apiVersion: v1
kind: Pod
metadata: {name: client, labels: {app: client}}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers: [{name: client, image: "` + serversImage + `", imagePullPolicy: Never, command: [sleep, infinity]}]
---
apiVersion: v1
kind: Secret
metadata: {name: argocd-redis}
stringData: {auth: hunter2}
---
`

// TestRedis installs the Redis of Argo CD, and lets the master move.
func TestRedis(t *testing.T) {
	stage.NewNamespace(t, redisNamespace)
	wire := stage.WatchWire(t, redisNamespace, marker, "hunter2")
	e := stage.Package(t, redisNamespace, redisClient+redis(t), "")
	stage.DeployPackage(t, redisNamespace, e)
	stage.Ready(t, redisNamespace, "pod/client")
	for _, workload := range []string{"statefulset/argocd-redis-ha-server", "deployment/argocd-redis-ha-haproxy"} {
		stage.Must(t, "", "-n", redisNamespace, "rollout", "status", workload, "--timeout=118s")
	}
	first := t.Run("the proxy of Argo CD finds the master", testMaster)
	if first {
		t.Run("the master moves", testFailover)
	}
	wantRedisEncrypted(t)
	wire.WantSecret(t)
}

// redis is the part of Argo CD's manifests that is its database. It is changed thus:
//   - images: Debian's programs, and for haproxy the command that is the other image's entry point;
//   - the init container of Argo CD's own program, which makes the password, is left out: the Secret is ours;
//   - anti-affinity is left out: this cluster has one node;
//   - probes and a hook that wait 30 s wait 2 s, and probe every 3 s.
func redis(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(env.Corpus(t), "argo-cd-ha.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var kept []string
	for document := range strings.SplitSeq(string(text), "\n---\n") {
		var head struct {
			Kind     string
			Metadata struct{ Name string }
		}
		if err := yaml.Unmarshal([]byte(document), &head); err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(head.Metadata.Name, "argocd-redis-ha") {
			continue
		}
		var changed any
		switch head.Kind {
		case "Deployment":
			var d appsv1.Deployment
			err, changed = yaml.Unmarshal([]byte(document), &d), &d
			changePod(&d.Spec.Template.Spec)
		case "StatefulSet":
			var s appsv1.StatefulSet
			err, changed = yaml.Unmarshal([]byte(document), &s), &s
			changePod(&s.Spec.Template.Spec)
		default:
			kept = append(kept, document)
			continue
		}
		var out []byte
		if err == nil {
			out, err = yaml.Marshal(changed)
		}
		if err != nil {
			t.Fatalf("%s: %v", head.Metadata.Name, err)
		}
		kept = append(kept, string(out))
	}
	if len(kept) < 12 {
		t.Fatalf("%d objects are of the database: this test does not know the manifests", len(kept))
	}
	return strings.Join(kept, "\n---\n")
}

func changePod(spec *corev1.PodSpec) {
	spec.Affinity = nil
	spec.InitContainers = slices.DeleteFunc(spec.InitContainers, func(c corev1.Container) bool { return c.Name == "secret-init" })
	for _, containers := range [][]corev1.Container{spec.InitContainers, spec.Containers} {
		for i := range containers {
			changeContainer(&containers[i])
		}
	}
}

func changeContainer(c *corev1.Container) {
	c.Image, c.ImagePullPolicy = serversImage, corev1.PullNever
	if c.Name == "haproxy" {
		c.Command = []string{"haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"}
	}
	for _, probe := range []*corev1.Probe{c.StartupProbe, c.ReadinessProbe, c.LivenessProbe} {
		if probe != nil {
			probe.InitialDelaySeconds, probe.PeriodSeconds = 2, 3
		}
	}
	if c.StartupProbe != nil {
		c.StartupProbe.FailureThreshold = 30
	}
	if c.Lifecycle != nil && c.Lifecycle.PostStart != nil {
		for i, word := range c.Lifecycle.PostStart.Exec.Command {
			c.Lifecycle.PostStart.Exec.Command[i] = strings.ReplaceAll(word, "sleep 30", "sleep 2")
		}
	}
}

// redisCLI asks a host as the client does.
func redisCLI(host string, args ...string) (string, error) {
	out, err := stage.Kubectl("", append([]string{"-n", redisNamespace, "exec", "client", "-c", "client", "--",
		"timeout", "5", "redis-cli", "-h", host, "-a", "hunter2", "--no-auth-warning"}, args...)...)
	out = strings.TrimSpace(out)
	if err == nil && (strings.HasPrefix(out, "ERR") || strings.HasPrefix(out, "NOREPLICAS") || strings.HasPrefix(out, "READONLY")) {
		err = fmt.Errorf("redis says %s", out)
	}
	return out, err
}

// testMaster writes through the haproxy, and reads at every member by its own Service.
func testMaster(t *testing.T) {
	wantWritten(t, "first")
	for _, host := range members() {
		stage.Eventually(t, func() error {
			out, err := redisCLI(host, "get", "first")
			if err == nil && out != marker {
				err = fmt.Errorf("%s has %q", host, out)
			}
			return err
		})
	}
}

func members() (hosts []string) {
	for n := range 3 {
		hosts = append(hosts, fmt.Sprintf("argocd-redis-ha-announce-%d", n))
	}
	return hosts
}

// wantWritten writes by the haproxy, as Argo CD does, once it has found a master.
func wantWritten(t *testing.T, key string) {
	t.Helper()
	stage.Poll(t, 2*time.Minute, func() error {
		out, err := redisCLI("argocd-redis-ha-haproxy", "set", key, marker)
		if err == nil && out != "OK" {
			err = fmt.Errorf("the answer is %q", out)
		}
		return err
	})
}

// master is the number of the member that is.
func master(t *testing.T) (number int) {
	t.Helper()
	stage.Eventually(t, func() error {
		var masters []int
		for n, host := range members() {
			if out, err := redisCLI(host, "role"); err == nil && strings.HasPrefix(out, "master") {
				masters = append(masters, n)
			}
		}
		if len(masters) != 1 {
			return fmt.Errorf("masters: %v", masters)
		}
		number = masters[0]
		return nil
	})
	return number
}

// testFailover asks the sentinels for another master, by the Service of one of them.
func testFailover(t *testing.T) {
	before := master(t)
	stage.Eventually(t, func() error {
		out, err := stage.Kubectl("", "-n", redisNamespace, "exec", "client", "-c", "client", "--",
			"redis-cli", "-h", members()[before], "-p", "26379", "sentinel", "failover", "argocd")
		if err == nil && strings.TrimSpace(out) != "OK" {
			err = fmt.Errorf("the sentinel says %q", out)
		}
		return err
	})
	stage.Eventually(t, func() error {
		if now := master(t); now == before {
			return fmt.Errorf("member %d is still the master", now)
		}
		return nil
	})
	wantWritten(t, "second")
	if out, err := redisCLI(members()[before], "get", "first"); err != nil || out != marker {
		t.Errorf("the old master lost what was written: %q, %v", out, err)
	}
}

// wantRedisEncrypted wants mutual TLS alone of all pods of the mesh, and every member named by its workload.
func wantRedisEncrypted(t *testing.T) {
	t.Helper()
	stage.WantEncrypted(t, redisNamespace, api.PackageLabel)
	log := stage.Must(t, "", "-n", redisNamespace, "logs", "client", "-c", api.ProxyName)
	if want := "/ns/" + redisNamespace + "/statefulset/argocd-redis-ha-server"; !strings.Contains(log, want) {
		t.Errorf("the client's proxy met no %s:\n%s", want, log)
	}
}
