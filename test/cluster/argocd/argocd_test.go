//go:build e2e && linux

package argocd

import (
	"testing"
	"time"
)

// TestArgoCD installs Argo CD once. Each step has a namespace, a repository and an Application of its own.
func TestArgoCD(t *testing.T) {
	started := time.Now()
	install(t)
	t.Logf("Argo CD is up after %v", time.Since(started).Round(time.Second))
	h := serveGit(t)
	t.Run("steps", func(t *testing.T) { // waits for the parallel ones, before Argo CD goes
		for _, step := range []struct {
			name string
			test func(*testing.T, *host)
		}{ // the longest first
			{"adoption", testAdoption},
			{"a rendered branch", testRendered},
			{"build options, the hydrator, and lost flags", testBuildOptions},
			{"the plugin", testPlugin},
			{"an ApplicationSet that makes namespaces", testSet},
			{"waves and hooks of an app that runs", testWavesAdopted},
			{"waves and hooks", testWaves},
			{"a kpt package", testKpt},
			{"a Helm chart", testHelm},
		} {
			t.Run(step.name, func(t *testing.T) {
				t.Parallel()
				started := time.Now()
				step.test(t, h)
				t.Logf("%v", time.Since(started).Round(time.Second))
			})
		}
	})
}
