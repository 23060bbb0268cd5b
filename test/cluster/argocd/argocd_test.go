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
		for name, step := range map[string]func(*testing.T, *host){
			"a rendered branch":                       testRendered,
			"the plugin":                              testPlugin,
			"build options, and without them":         testBuildOptions,
			"a Helm chart":                            testHelm,
			"waves and hooks":                         testWaves,
			"waves and hooks of an app that runs":     testWavesAdopted,
			"an ApplicationSet that makes namespaces": testSet,
			"a kpt package":                           testKpt,
			"adoption":                                testAdoption,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				started := time.Now()
				step(t, h)
				t.Logf("%v", time.Since(started).Round(time.Second))
			})
		}
	})
}
