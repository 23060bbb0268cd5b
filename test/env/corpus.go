// Package env finds what tests need from outside of the repository. Its scripts make it: corpus.sh the manifests of
// others, programs.sh the programs, kube-up.sh a Kubernetes.
package env

import (
	_ "embed"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/program"
)

//go:embed edition
var edition string

// EditionBefore is the commit of the edition before this one, which upgrades begin with. Scripts read the same file.
func EditionBefore() string { return strings.TrimSpace(edition) }

// Corpus is the path of a folder with the manifests of others, a YAML file for each application. It looks at
// $MESHLESS_CORPUS, at shared/corpus beside the repository, and where corpus.sh puts its downloads. Without any the
// test is skipped; with CI=true it fails instead, so that a skip cannot hide there.
func Corpus(tb testing.TB) string {
	tb.Helper()
	for _, folder := range corpusFolders(tb) {
		if files, err := filepath.Glob(filepath.Join(folder, "*.yaml")); err == nil && len(files) > 0 {
			return folder
		}
	}
	program.Missing(tb, "the manifests of others: test/env/corpus.sh downloads them, MESHLESS_CORPUS names a folder that holds them")
	return ""
}

// corpusFolders are the folders that may hold the corpus. What $MESHLESS_CORPUS names is the only one.
func corpusFolders(tb testing.TB) []string {
	tb.Helper()
	if folder := os.Getenv("MESHLESS_CORPUS"); folder != "" {
		return []string{folder}
	}
	top, err := filepath.Abs(".")
	if err != nil {
		tb.Fatal(err)
	}
	for filepath.Dir(top) != top {
		if _, err := os.Stat(filepath.Join(top, "go.mod")); err == nil {
			break
		}
		top = filepath.Dir(top)
	}
	cache := os.Getenv("XDG_CACHE_HOME")
	if cache == "" {
		cache = filepath.Join(os.Getenv("HOME"), ".cache")
	}
	return []string{filepath.Join(top, "../shared/corpus"), filepath.Join(cache, "meshless/corpus")}
}
