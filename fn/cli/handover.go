package cli

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"syscall"
	"time"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
)

// handOverVariable has the function, `build` and `render` print what they were given, for the issue that set it, and
// not render it: at the first run there is nothing to render with. Its value names that run.
const handOverVariable = "MESHLESS_HAND_OVER"

// kindHandOver is the one object that is printed then. No cluster knows it, and it is all that is printed: whoever
// applies it, since the variable was set by somebody else, applies nothing.
const kindHandOver = "HandOver"

// handOver is what a function was given.
type handOver struct {
	items  []*yaml.RNode
	config *yaml.RNode // nil where there was none
}

// handOverTo is the run of issue that asks for a handover, or "".
func handOverTo() string { return os.Getenv(handOverVariable) }

// object puts the handover into the one object, in base64: nothing on its way is to read it.
func (h handOver) object(run string) (*yaml.RNode, error) {
	var items bytes.Buffer
	for _, item := range h.items {
		text, err := item.String()
		if err != nil {
			return nil, err
		}
		items.WriteString("---\n" + text)
	}
	config := ""
	if !yaml.IsMissingOrNull(h.config) {
		var err error
		if config, err = h.config.String(); err != nil {
			return nil, err
		}
	}
	encode := base64.StdEncoding.EncodeToString
	return yaml.NewRNode(node.Object("apiVersion", v1alpha1.APIVersion, "kind", kindHandOver, "metadata", node.Object("name", run),
		"spec", node.Object("items", encode(items.Bytes()), "config", encode([]byte(config))))), nil
}

// takeHandOver returns what a build of this run handed over; nil where its output holds no handover.
func takeHandOver(output []*yaml.RNode, run string) (*handOver, error) {
	at := slices.IndexFunc(output, isHandOver)
	switch {
	case at < 0:
		return nil, nil
	case len(output) > 1:
		other := report.ObjectOf(output[(at+1)%len(output)])
		return nil, fmt.Errorf("--build: prints %s beside what the function saw; give the command that builds this one kustomization, without what comes behind it", other)
	case output[0].GetName() != run:
		return nil, errors.New("--build: prints what another run of issue asked for; it is to build, and not to print what it has built before")
	}
	h := &handOver{}
	texts := map[string][]byte{}
	for _, field := range []string{"items", "config"} {
		text, err := base64.StdEncoding.DecodeString(node.Scalar(node.Get(output[0].YNode(), "spec"), field))
		if err != nil {
			return nil, fmt.Errorf("--build: what the function handed over cannot be read: %w", err)
		}
		texts[field] = text
	}
	var err error
	if h.items, err = readStream(bytes.NewReader(texts["items"]), "--build"); err != nil {
		return nil, err
	}
	configs, err := fromBytes(texts["config"])
	if err == nil && len(configs) == 1 {
		h.config = configs[0]
	}
	return h, err
}

func isHandOver(item *yaml.RNode) bool {
	return item.GetKind() == kindHandOver && item.GetApiVersion() == v1alpha1.APIVersion
}

// sameConfig tells whether two configs ask for the same. What is wrong with one, the render says.
func sameConfig(a, b *yaml.RNode) bool {
	x, err := v1alpha1.Load(a)
	if err != nil {
		return true
	}
	y, err := v1alpha1.Load(b)
	return err == nil && reflect.DeepEqual(x.Spec, y.Spec)
}

// withoutState leaves out what earlier renders made: issue reads its files.
func withoutState(items []*yaml.RNode) []*yaml.RNode {
	return slices.DeleteFunc(items, isOurs)
}

// runBuild runs the user's build in a shell, as its line in a script would run, and returns what it prints. It sees no
// identity of the CA.
func (p *program) runBuild(command string) (output []byte, run string, err error) {
	show, err := p.secret.hide()
	if err != nil {
		return nil, "", err
	}
	defer show()
	run = strings.ToLower(rand.Text())
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Env = append(os.Environ(), handOverVariable+"="+run)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 5 * time.Second // then what it started may hold its output open
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, p.err
	switch err := cmd.Run(); {
	case ctx.Err() != nil:
		return nil, "", errors.New("--build: was interrupted; nothing was written")
	case err != nil:
		return nil, "", fmt.Errorf("--build: %s: %w; nothing was written", command, err)
	}
	return out.Bytes(), run, nil
}

// buildBy has a command build the kustomization, up to the function, and returns what that was given. Before the first
// certificates the folder of state, which the kustomization lists, is there for as long as that takes.
func (p *program) buildBy(k *kustomization, command string) (items []*yaml.RNode, err error) {
	remove, err := k.seedState()
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove()) }()
	output, run, err := p.runBuild(command)
	if err != nil {
		return nil, err
	}
	built, err := readStream(bytes.NewReader(output), "--build")
	if err != nil {
		return nil, err
	}
	handed, err := takeHandOver(built, run)
	switch {
	case err != nil:
		return nil, err
	case handed == nil:
		return nil, fmt.Errorf("--build: the function did not run in it (it prints %s): kustomize leaves an exec function out in silence without --enable-exec, and a container is told by --env %s. "+
			"What has no function in it is a stream: meshless issue --config FILE --state DIR -", count(len(built), "object"), handOverVariable)
	case !sameConfig(k.config, handed.config):
		return nil, fmt.Errorf("--build: the function ran with another config than that of %s; give the command that builds this kustomization", k.folder)
	}
	return withoutState(handed.items), nil
}

// seedState makes the folder of state where there is none, and returns what removes it again. It holds a tripwire: the
// folder stays if this process is killed.
func (k *kustomization) seedState() (remove func() error, err error) {
	folder := filepath.Join(k.folder, pipeline.StateFolder)
	if _, err := os.Stat(folder); !k.listsState || !errors.Is(err, os.ErrNotExist) {
		return func() error { return nil }, nil
	}
	if err := os.Mkdir(folder, 0o755); err != nil {
		return nil, err
	}
	remove = func() error { return os.RemoveAll(folder) }
	tripwire, err := manifest.Tripwire("new").String()
	for name, text := range map[string]string{stateListFile: "resources: [" + path.Base(tripwireFile) + "]\n", tripwireFile: tripwire} {
		err = errors.Join(err, os.WriteFile(filepath.Join(k.folder, name), []byte(text), 0o644))
	}
	if err != nil {
		return nil, errors.Join(err, remove())
	}
	return remove, nil
}
