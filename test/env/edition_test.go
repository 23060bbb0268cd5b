package env_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/meshless-dev/meshless/test/env"
)

// TestEditionBefore: the commit that upgrades begin with stands in one file alone, and scripts and tests read it.
func TestEditionBefore(t *testing.T) {
	commit := env.EditionBefore()
	if !regexp.MustCompile(`^[0-9a-f]{7,40}$`).MatchString(commit) {
		t.Fatalf("%q is no commit", commit)
	}
	err := filepath.WalkDir("..", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || path == filepath.Join("..", "env", "edition") {
			return err
		}
		text, err := os.ReadFile(path)
		if err == nil && strings.Contains(string(text), commit) {
			t.Errorf("%s names the commit %s; test/env/edition does", path, commit)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}
