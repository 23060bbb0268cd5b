package cli_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
	kustomize "sigs.k8s.io/kustomize/kustomize/v5/commands"

	"github.com/meshless-dev/meshless/fn/cli"
)

// TestMain makes meshless and the real kustomize commands of the scripts, and of the programs that the scripts start.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"meshless": func() {
			if now, err := time.Parse(time.RFC3339, os.Getenv(clockVariable)); err == nil {
				os.Exit(cli.MainAt(now, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
			}
			os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
		},
		"steal": steal,
		"kustomize": func() {
			if err := kustomize.NewDefaultCommand().Execute(); err != nil {
				os.Exit(1)
			}
		},
	})
}

// TestScripts runs the commands as a user does. Each script has two new identities, cluster and CA, whose recipients
// replace CLUSTER and CA_RECIPIENT in its files; the CA's identity is in $CA_IDENTITY, and no variable of meshless is
// set.
func TestScripts(t *testing.T) {
	testscript.Run(t, params("testdata/script"))
}

// clockVariable lets a script set the time for everything that it starts, the function in `kustomize build` included.
const clockVariable = "TEST_CLOCK"

func params(folder string) testscript.Params {
	return testscript.Params{
		Dir: folder,
		Setup: func(env *testscript.Env) error {
			cluster, err := age.GenerateX25519Identity()
			if err != nil {
				return err
			}
			ca, err := age.GenerateX25519Identity()
			if err != nil {
				return err
			}
			env.Setenv("CA_IDENTITY", ca.String())
			env.Setenv("CLUSTER_IDENTITY", cluster.String())
			env.Setenv("HOME", env.WorkDir)
			for _, who := range []string{"AUTHOR", "COMMITTER"} {
				env.Setenv("GIT_"+who+"_NAME", "test")
				env.Setenv("GIT_"+who+"_EMAIL", "test@example.com")
			}
			return replaceInFiles(env.WorkDir, strings.NewReplacer("CLUSTER", cluster.Recipient().String(), "CA_RECIPIENT", ca.Recipient().String(), "SECRET_KEY", cluster.String()))
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"snapshot":  func(ts *testscript.TestScript, _ bool, args []string) { snapshot(ts, args[0]) },
			"same":      func(ts *testscript.TestScript, neg bool, args []string) { same(ts, neg, args[0]) },
			"edit":      edit,
			"clock":     clock,
			"step":      step,
			"recipient": recipient,
			"keyfrom":   keyfrom,
		},
	}
}

// clock TIME sets the time, "now" being that of the machine; clock +25h moves it.
func clock(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 1 {
		ts.Fatalf("usage: clock TIME or +DURATION")
	}
	text := args[0]
	if text == "now" {
		text = time.Now().UTC().Format(time.RFC3339)
	}
	if after, moved := strings.CutPrefix(text, "+"); moved {
		by, err := time.ParseDuration(after)
		ts.Check(err)
		now, err := time.Parse(time.RFC3339, ts.Getenv(clockVariable))
		ts.Check(err)
		text = now.Add(by).Format(time.RFC3339)
	}
	ts.Setenv(clockVariable, text)
}

func replaceInFiles(folder string, replacer *strings.Replacer) error {
	return filepath.WalkDir(folder, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		return os.WriteFile(path, []byte(replacer.Replace(string(data))), 0o644)
	})
}

// contents are all files below a folder as one text.
func contents(ts *testscript.TestScript, folder string) string {
	var out strings.Builder
	ts.Check(filepath.WalkDir(ts.MkAbs(folder), func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		data, err := os.ReadFile(path)
		fmt.Fprintf(&out, "== %s\n%s", path, data)
		return err
	}))
	return out.String()
}

// snapshot DIR remembers what is below a folder; same DIR compares with it.
func snapshot(ts *testscript.TestScript, folder string) {
	ts.Setenv("SNAPSHOT_"+filepath.Base(folder), contents(ts, folder))
}

func same(ts *testscript.TestScript, neg bool, folder string) {
	before, now := ts.Getenv("SNAPSHOT_"+filepath.Base(folder)), contents(ts, folder)
	if before == "" {
		ts.Fatalf("no snapshot of %s", folder)
	}
	if (before == now) == neg {
		ts.Fatalf("%s: same is %v", folder, before == now)
	}
}

// edit FILE OLD NEW replaces a text that must be there.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: edit FILE OLD NEW")
	}
	text := ts.ReadFile(args[0])
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%s holds no %q", args[0], args[1])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, args[1], args[2], 1)), 0o644))
}

// slow skips with -short a test that takes seconds.
func slow(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes seconds")
	}
}
