//go:build e2e && linux

package helm

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/env"
	"github.com/meshless-dev/meshless/test/program"
)

// TestRedisChart runs the chart of others with Debian's Redis in place of its image: a replica follows the master over
// mutual TLS, and what the master is told is at the replica, also after an upgrade.
func TestRedisChart(t *testing.T) {
	chart := filepath.Join(env.Corpus(t), "charts/redis")
	if _, err := os.Stat(chart); err != nil {
		program.Missing(t, "the folder charts beside the single files of the corpus: %v", err)
	}
	eachHelm(t, func(t *testing.T, h *helm) {
		r := newRelease(t, h, "helm-redis", chart, "")
		r.set("image.registry=docker.io", "image.repository=meshless-test/servers", "image.tag=latest", "global.security.allowInsecureImages=true",
			"auth.password=hunter2", "master.persistence.enabled=false", "replica.persistence.enabled=false", "replica.replicaCount=1",
			"master.readinessProbe.initialDelaySeconds=1", "replica.readinessProbe.initialDelaySeconds=1", "replica.startupProbe.initialDelaySeconds=1",
			"master.readinessProbe.periodSeconds=1", "replica.readinessProbe.periodSeconds=1", "replica.startupProbe.periodSeconds=1",
			"master.livenessProbe.initialDelaySeconds=1")
		r.issue(t, time.Now())
		r.upgrade(t)
		wire := stage.WatchWire(t, r.namespace, "hunter2", "a-value-of-the-chart")
		r.wantCopied(t, "first")
		r.set("commonConfiguration=maxmemory 50mb")
		r.upgrade(t)
		r.wantCopied(t, "second")
		wire.WantSecret(t)
		for _, pod := range stage.Pods(t, r.namespace, "app.kubernetes.io/name=redis") {
			if pod.Annotations[api.WorkloadAnnotation] == "" {
				t.Errorf("%s is not in the mesh", pod.Name)
			}
		}
	})
}

// wantCopied wants what the master is told at the replica.
func (r *release) wantCopied(t *testing.T, key string) {
	t.Helper()
	value := "a-value-of-the-chart-" + key
	redis := func(command string) (string, error) {
		return stage.Kubectl("", "-n", r.namespace, "exec", "my-redis-replicas-0", "-c", "redis", "--", "sh", "-c", "redis-cli --no-auth-warning -a hunter2 "+command)
	}
	if out, err := redis("-h my-redis-master set " + key + " " + value); err != nil || !strings.Contains(out, "OK") {
		t.Fatalf("set: %s %v", out, err)
	}
	stage.Eventually(t, func() error {
		out, err := redis("get " + key)
		if err == nil && strings.TrimSpace(out) != value {
			err = fmt.Errorf("the replica has %q", out)
		}
		return err
	})
}
