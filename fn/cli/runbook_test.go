package cli_test

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"github.com/rogpeppe/go-internal/testscript"
)

// runbooks is the page whose commands the scripts run.
const runbooks = "../../docs/runbooks.md"

// TestRunbooks follows every runbook of docs/runbooks.md as a person would: each script in testdata/runbook says what
// has happened and what time it is, and runs the commands of the page word by word ("step NAME N").
func TestRunbooks(t *testing.T) {
	slow(t)
	p := params("testdata/runbook")
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		if err := os.CopyFS(env.WorkDir, os.DirFS("testdata/runbook-files")); err != nil {
			return err
		}
		if err := setup(env); err != nil {
			return err
		}
		identity := env.Getenv("CA_IDENTITY") + "\n"
		env.Setenv("MESHLESS_CA_IDENTITY_FILE", filepath.Join(env.WorkDir, "ca-identity.txt"))
		env.Setenv("PATH", filepath.Join(env.WorkDir, "bin")+string(filepath.ListSeparator)+env.Getenv("PATH"))
		if err := os.WriteFile(filepath.Join(env.WorkDir, "cluster-identity.txt"), []byte(env.Getenv("CLUSTER_IDENTITY")+"\n"), 0o600); err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(env.WorkDir, "ca-identity.txt"), []byte(identity), 0o600)
	}
	testscript.Run(t, p)
}

// TestEveryRunbookIsTested: each section has a script of its name, and the script runs each of its steps.
func TestEveryRunbookIsTested(t *testing.T) {
	sections := readRunbooks(t.Fatal)
	if len(sections) < 9 {
		t.Errorf("found %d runbooks; does this test still read the page rightly?", len(sections))
	}
	for name, steps := range sections {
		text, err := os.ReadFile(filepath.Join("testdata/runbook", name+".txtar"))
		if err != nil {
			t.Errorf("%v", err)
			continue
		}
		for i := range steps {
			if line := regexp.MustCompile(`(?m)^!? ?step ` + name + ` ` + string(rune('1'+i)) + `$`); !line.Match(text) {
				t.Errorf("%s.txtar does not run step %d", name, i+1)
			}
		}
	}
}

// TestRunbooksStopAtAnError: a person pastes a block into a shell that goes on after an error, so whatever follows a
// command of ours that may refuse is chained to it.
func TestRunbooksStopAtAnError(t *testing.T) {
	refuses := regexp.MustCompile(`\bmeshless (issue|revoke|verify|keygen) `)
	chained := 0
	for name, steps := range readRunbooks(t.Fatal) {
		for i, s := range steps {
			ours, goesOn := false, true
			for line := range strings.Lines(s.commands) {
				line = strings.TrimSpace(line)
				if ours && !goesOn {
					t.Errorf("%s, step %d: %q runs whatever became of what is before it", name, i+1, line)
				}
				ours = ours || refuses.MatchString(line)
				goesOn = strings.HasSuffix(line, "&&") || strings.HasSuffix(line, `\`)
				if ours && goesOn {
					chained++
				}
			}
		}
	}
	if chained < 20 {
		t.Errorf("%d lines are chained to one of ours; does this test still read the page rightly?", chained)
	}
}

// runbookStep is one block of commands, and what the page says that one sees.
type runbookStep struct {
	commands string
	seen     []string // lines, in which … stands for anything
}

// readRunbooks reads the sections of the page by the names of their anchors.
func readRunbooks(fail func(...any)) map[string][]runbookStep {
	page, err := os.ReadFile(runbooks)
	if err != nil {
		fail(err)
	}
	sections := map[string][]runbookStep{}
	name, block := "", ""
	for line := range strings.Lines(string(page)) {
		line = strings.TrimPrefix(line, "   ") // blocks belong to the steps of a list
		title, isTitle := strings.CutPrefix(line, "## ")
		steps := sections[name]
		switch {
		case block != "" && strings.HasPrefix(line, "```"):
			block = ""
		case block == "sh":
			steps[len(steps)-1].commands += line
		case block == "text":
			steps[len(steps)-1].seen = append(steps[len(steps)-1].seen, strings.TrimRight(line, "\n"))
		case isTitle:
			name = anchor(title)
		case strings.HasPrefix(line, "```sh") && name != "":
			block, sections[name] = "sh", append(steps, runbookStep{})
		case strings.HasPrefix(line, "```text") && len(steps) > 0:
			block = "text"
		}
	}
	return sections
}

// anchor is the name that GitHub gives a heading.
func anchor(title string) string {
	return regexp.MustCompile(`[^a-z0-9-]`).ReplaceAllString(strings.ReplaceAll(strings.ToLower(strings.TrimSpace(title)), " ", "-"), "")
}

// step NAME N [VARIABLE=VALUE] runs the Nth block of commands of a runbook, from the folder repo, and compares what the
// page shows with what is seen. The variable is what the page says to write there instead. A block that is to fail runs
// as in a person's shell, which goes on after an error.
func step(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 2 || len(args) > 3 {
		ts.Fatalf("usage: step NAME N [VARIABLE=VALUE]")
	}
	steps := readRunbooks(func(v ...any) { ts.Fatalf("%v", v) })[args[0]]
	n := int(args[1][0] - '1')
	if n < 0 || n >= len(steps) {
		ts.Fatalf("runbook %q has %d steps", args[0], len(steps))
	}
	commands := remembered(steps[:n]) + steps[n].commands
	if len(args) == 3 {
		name, _, _ := strings.Cut(args[2], "=")
		assignment := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `=.*$`)
		if !assignment.MatchString(commands) {
			ts.Fatalf("%s: nothing sets %s in step %s or before", args[0], name, args[1])
		}
		commands = assignment.ReplaceAllLiteralString(commands, args[2])
	}
	flags := "-euo"
	if neg {
		flags = "-uo"
	}
	script := "cd \"$HOME/repo\"\n" + commands
	if err := ts.Exec("bash", flags, "pipefail", "-c", script); (err != nil) != neg {
		ts.Fatalf("%s%v", script, err)
	}
	shown := steps[n].seen
	if neg && !slices.ContainsFunc(shown, func(line string) bool { return strings.HasPrefix(line, "error:") }) {
		return // the page shows what is seen when it works
	}
	seen := strings.Split(ts.ReadFile("stderr")+ts.ReadFile("stdout"), "\n")
	for _, want := range shown {
		pattern := regexp.MustCompile("^" + strings.ReplaceAll(regexp.QuoteMeta(want), "…", ".*") + "$")
		found := false
		for _, line := range seen {
			found = found || pattern.MatchString(line)
		}
		if !found {
			ts.Fatalf("the page shows %q, which is not seen after\n%s", want, script)
		}
	}
}

// remembered are the variables that a person's shell has of the steps before.
func remembered(steps []runbookStep) string {
	var out strings.Builder
	for _, s := range steps {
		for _, line := range regexp.MustCompile(`(?m)^[a-z]+=[^$\n]+$`).FindAllString(s.commands, -1) {
			out.WriteString(line + "\n")
		}
	}
	return out.String()
}

// recipient FILE OLD KEYFILE writes the recipient of a new identity into a config, in place of that of the script's CA
// or CLUSTER.
func recipient(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 3 {
		ts.Fatalf("usage: recipient FILE CA|CLUSTER KEYFILE")
	}
	old, err := age.ParseX25519Identity(ts.Getenv(map[string]string{"CA": "CA_IDENTITY", "CLUSTER": "CLUSTER_IDENTITY"}[args[1]]))
	ts.Check(err)
	fresh := regexp.MustCompile(`age1[a-z0-9]+`).FindString(ts.ReadFile(args[2]))
	text := ts.ReadFile(args[0])
	if fresh == "" || !strings.Contains(text, old.Recipient().String()) {
		ts.Fatalf("%s does not name the recipient of %s, or %s holds none", args[0], args[1], args[2])
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(strings.Replace(text, old.Recipient().String(), fresh, 1)), 0o644))
}

// keyfrom FILE sets KEY.
func keyfrom(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv("KEY", strings.TrimSpace(ts.ReadFile(args[0])))
}
