package manifest_test

import (
	"slices"
	"testing"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
)

// TestHooks holds what is read of hooks and waves against Argo CD's own tests (gitops-engine v0.7.1, pkg/sync/hook and
// pkg/sync/syncwaves).
func TestHooks(t *testing.T) {
	for annotations, want := range map[string]struct {
		types  []string
		hook   bool
		apart  string
		inSync bool
		wave   int
	}{
		"":                                     {nil, false, "", true, 0},
		"argocd.argoproj.io/hook: PreSync":     {[]string{"PreSync"}, true, "PreSync", false, 0},
		"argocd.argoproj.io/hook: Sync":        {[]string{"Sync"}, true, "", true, 0},
		"argocd.argoproj.io/hook: 'Sync,Sync'": {[]string{"Sync"}, true, "", true, 0},
		"argocd.argoproj.io/hook: ' PostSync , PreSync,'":                                   {[]string{"PostSync", "PreSync"}, true, "PreSync", false, 0},
		"argocd.argoproj.io/hook: SyncFail":                                                 {[]string{"SyncFail"}, true, "SyncFail", false, 0},
		"argocd.argoproj.io/hook: PostDelete":                                               {[]string{"PostDelete"}, true, "PostDelete", false, 0},
		"argocd.argoproj.io/hook: PreDelete":                                                {[]string{"PreDelete"}, true, "", false, 0},
		"argocd.argoproj.io/hook: Skip":                                                     {[]string{"Skip"}, true, "", false, 0},
		"argocd.argoproj.io/hook: 'Skip,PreSync'":                                           {[]string{"Skip", "PreSync"}, true, "PreSync", false, 0},
		"argocd.argoproj.io/hook: Garbage":                                                  {nil, true, "", false, 0},
		"argocd.argoproj.io/hook: ''":                                                       {nil, true, "", false, 0},
		"argocd.argoproj.io/hook: 'Sync,Garbage'":                                           {[]string{"Sync"}, true, "", true, 0},
		"helm.sh/hook: pre-install":                                                         {[]string{"PreSync"}, true, "pre-install", false, 0},
		"helm.sh/hook: 'pre-install,pre-upgrade'":                                           {[]string{"PreSync"}, true, "pre-install", false, 0},
		"helm.sh/hook: 'post-install, post-upgrade'":                                        {[]string{"PostSync"}, true, "", false, 0},
		"helm.sh/hook: pre-rollback":                                                        {nil, true, "pre-rollback", false, 0},
		"helm.sh/hook: test":                                                                {nil, true, "", false, 0},
		"helm.sh/hook: crd-install":                                                         {nil, false, "", true, 0},
		"argocd.argoproj.io/hook: Sync, helm.sh/hook: pre-install":                          {[]string{"Sync"}, true, "pre-install", true, 0},
		"argocd.argoproj.io/sync-wave: '-3', helm.sh/hook-weight: '4'":                      {nil, false, "", true, -3},
		"argocd.argoproj.io/sync-wave: abc, helm.sh/hook-weight: '4'":                       {nil, false, "", true, 4},
		"argocd.argoproj.io/sync-wave: '', helm.sh/hook-weight: 4.5":                        {nil, false, "", true, 0},
		"argocd.argoproj.io/sync-wave: '+2'":                                                {nil, false, "", true, 2},
		"argocd.argoproj.io/sync-wave: ' 2'":                                                {nil, false, "", true, 0},
		"argocd.argoproj.io/sync-wave: '99999999999999999999', helm.sh/hook-weight: '0x10'": {nil, false, "", true, 0},
	} {
		item := yaml.MustParse("apiVersion: batch/v1\nkind: Job\nmetadata: {name: a, annotations: {" + annotations + "}}\n")
		types, hook := manifest.ArgoHooks(item)
		if !slices.Equal(types, want.types) || hook != want.hook {
			t.Errorf("{%s}: is a hook of %v (%v), want %v (%v)", annotations, types, hook, want.types, want.hook)
		}
		if got := manifest.ApartHook(item); got != want.apart {
			t.Errorf("{%s}: runs apart as %q, want %q", annotations, got, want.apart)
		}
		if got := manifest.InSync(item); got != want.inSync {
			t.Errorf("{%s}: is applied with the rest: %v, want %v", annotations, got, want.inSync)
		}
		if got := manifest.Wave(item); got != want.wave {
			t.Errorf("{%s}: is in wave %d, want %d", annotations, got, want.wave)
		}
	}
}
