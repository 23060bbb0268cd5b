package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/cli"
)

const workflowFile = "../../examples/workflow/renew.yaml"

// workflowStep is a step of a job, as far as it matters here.
type workflowStep struct {
	Name string            `yaml:"name"`
	Uses string            `yaml:"uses"`
	Run  string            `yaml:"run"`
	Env  map[string]string `yaml:"env"`
}

type workflow struct {
	Env         map[string]string `yaml:"env"`
	Permissions map[string]string `yaml:"permissions"`
	Jobs        map[string]struct {
		Environment string            `yaml:"environment"`
		Permissions map[string]string `yaml:"permissions"`
		Steps       []workflowStep    `yaml:"steps"`
	} `yaml:"jobs"`
}

func readWorkflow(fail func(...any)) *workflow {
	text, err := os.ReadFile(workflowFile)
	if err != nil {
		fail(err)
	}
	var w workflow
	if err := yaml.Unmarshal(text, &w); err != nil {
		fail(err)
	}
	return &w
}

// TestWorkflowIsSound: every script is bash, every command of ours exists with its flags, every action is pinned, and
// the CA's identity is in one step alone.
func TestWorkflowIsSound(t *testing.T) {
	w := readWorkflow(t.Fatal)
	commands, identities := 0, 0
	pinned := regexp.MustCompile(`^actions/(checkout|setup-go)@[0-9a-f]{40}$`)
	for name, job := range w.Jobs {
		for _, step := range job.Steps {
			if step.Uses != "" && !pinned.MatchString(step.Uses) {
				t.Errorf("%s: %s", name, step.Uses)
			}
			check := exec.CommandContext(t.Context(), "bash", "-n")
			check.Stdin = strings.NewReader(step.Run)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: %s: %s", name, step.Name, out)
			}
			if strings.Contains(step.Run, "${{") {
				t.Errorf("%s: %s: an expression in a script is run as whatever it holds", name, step.Name)
			}
			for _, line := range regexp.MustCompile(`(?m)(?:^ *|\| |exec )meshless ([^|>\n]+)`).FindAllStringSubmatch(step.Run, -1) {
				commands++
				args := strings.Fields(strings.ReplaceAll(line[1], `"`, ""))
				if err := cli.ParseArgs(args); err != nil {
					t.Errorf("%s: %s: meshless %s: %v", name, step.Name, line[1], err)
				}
			}
			if step.Env["MESHLESS_CA_IDENTITY"] != "" {
				identities++
				if step.Run != `exec meshless issue "$DIR"` || name != "renew" {
					t.Errorf("%s: %s has the CA's identity", name, step.Name)
				}
			}
		}
	}
	if commands < 5 || identities != 1 || w.Env["MESHLESS_CA_IDENTITY"] != "" {
		t.Errorf("%d commands, %d steps with the CA's identity", commands, identities)
	}
	if w.Jobs["renew"].Environment == "" || w.Jobs["verify"].Environment != "" {
		t.Error("the environment that holds the secret belongs to the job that issues, and to no other")
	}
	if len(w.Jobs["verify"].Permissions) != 0 || len(w.Permissions) != 1 || w.Permissions["contents"] != "read" {
		t.Error("the job for pull requests may do more than read")
	}
}

// TestWorkflow runs the jobs against a repository: "job NAME" runs the scripts of a job in a fresh clone, as a runner
// does.
func TestWorkflow(t *testing.T) {
	slow(t)
	p := params("testdata/workflow")
	setup := p.Setup
	p.Setup = func(env *testscript.Env) error {
		if err := os.CopyFS(env.WorkDir, os.DirFS("testdata/runbook-files")); err != nil {
			return err
		}
		env.Setenv("PATH", filepath.Join(env.WorkDir, "bin")+string(filepath.ListSeparator)+env.Getenv("PATH"))
		return setup(env)
	}
	p.Cmds["job"] = job
	testscript.Run(t, p)
}

// job NAME BRANCH runs the scripts of a job of the workflow in a fresh clone, at a branch; what they print is in the
// file log.
func job(ts *testscript.TestScript, neg bool, args []string) {
	w := readWorkflow(func(v ...any) { ts.Fatalf("%v", v) })
	ts.Check(ts.Exec("bash", "-ec", `rm -rf clone runner; mkdir runner; git clone -q origin.git clone; cd clone; git switch -q "$1"`, "job", args[1]))
	log, failed := "", false
	for _, step := range w.Jobs[args[0]].Steps {
		if step.Run == "" || step.Name == "Install" {
			continue
		}
		script := "cd clone\n" + step.Run
		var env []string
		for key, value := range step.Env {
			env = append(env, key+"="+strings.NewReplacer("${{ secrets.MESHLESS_CA_IDENTITY }}", ts.Getenv("CA_IDENTITY"), "${{ github.token }}", "token").Replace(value))
		}
		for key, value := range w.Env {
			env = append(env, key+"="+value)
		}
		env = append(env, "RUNNER_TEMP="+ts.MkAbs("runner"), "GITHUB_BASE_REF=main", "bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", script)
		err := ts.Exec("env", env...)
		log += ts.ReadFile("stdout") + ts.ReadFile("stderr")
		if failed = err != nil; failed {
			break
		}
	}
	ts.Check(os.WriteFile(ts.MkAbs("log"), []byte(log), 0o644))
	if strings.Contains(log, "AGE-SECRET-KEY") {
		ts.Fatalf("the log holds a secret")
	}
	if failed != neg {
		ts.Fatalf("job %s: failed is %v:\n%s", args[0], failed, log)
	}
}
