package cli

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/kustomize/api/krusty"
	"sigs.k8s.io/kustomize/api/resmap"
	kbuild "sigs.k8s.io/kustomize/kustomize/v5/commands/build"
	"sigs.k8s.io/kustomize/kyaml/filesys"
	"sigs.k8s.io/kustomize/kyaml/fn/runtime/runtimeutil"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/api/v1alpha1"
	"github.com/meshless-dev/meshless/fn/kustomize"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/pipeline"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
)

// kustomizeFlags are those of `kustomize build` that change what it reads and runs.
func kustomizeFlags(flags *pflag.FlagSet) {
	kbuild.AddFunctionBasicsFlags(flags)
	kbuild.AddFunctionAlphaEnablementFlags(flags)
	kbuild.AddFlagLoadRestrictor(flags)
	kbuild.AddFlagEnablePlugins(flags)
	kbuild.AddFlagEnableHelm(flags)
}

// ofKustomize has the names of those flags. It is made before any is read: kustomize keeps their values in one place,
// which each set of flags sets anew.
var ofKustomize = func() *pflag.FlagSet {
	flags := pflag.NewFlagSet("", pflag.ContinueOnError)
	kustomizeFlags(flags)
	return flags
}()

// givenKustomizeFlag is the first of those flags that the user gave, or "".
func givenKustomizeFlag(flags *pflag.FlagSet) (given string) {
	flags.Visit(func(f *pflag.Flag) {
		if given == "" && ofKustomize.Lookup(f.Name) != nil {
			given = f.Name
		}
	})
	return given
}

// checkHelmFlags refuses flags of Helm that have no effect.
func checkHelmFlags(flags *pflag.FlagSet) error {
	var err error
	enabled, _ := flags.GetBool("enable-helm")
	flags.Visit(func(f *pflag.Flag) {
		if strings.HasPrefix(f.Name, "helm-") && !enabled {
			err = wrongUse("--%s: has no effect without --enable-helm", f.Name)
		}
	})
	return err
}

func (p *program) buildCommand() *cobra.Command {
	var failOn, now string
	cmd := kbuild.NewCmdBuild(filesys.MakeFsOnDisk(), kbuild.MakeHelp("meshless", "build"), io.Discard)
	kbuild.AddFunctionAlphaEnablementFlags(cmd.Flags())
	cmd.Use, cmd.Short = "build [DIR or URL]", "Build a kustomization and put it into the mesh, as kustomize with the function, in a fraction of the time"
	cmd.Long = `Build a kustomization whose transformers end in a MutualTLS: kustomize runs in this process, and the function behind it.
The output is that of 'kustomize build --enable-alpha-plugins --enable-exec DIR'. The flags are those of 'kustomize build'.

No flag is needed for the function of meshless itself; --enable-alpha-plugins and --enable-exec are for others. Certificates
are never made here: 'meshless issue' makes them.`
	cmd.Example = `  meshless build DIR | kubectl apply -f -
  meshless build --enable-helm --load-restrictor LoadRestrictionsNone -o rendered.yaml DIR`
	cmd.Args, cmd.ValidArgsFunction = cobra.MaximumNArgs(1), completeDirectory
	failOnFlag(cmd, &failOn)
	clockFlag(cmd, &now)
	cmd.SetOut(p.err) // cobra says there that a flag is deprecated
	cmd.SetHelpFunc(func(cmd *cobra.Command, args []string) {
		cmd.SetOut(p.out)
		cmd.Root().HelpFunc()(cmd, args)
	})
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if err := checkFailOn(failOn); err != nil {
			return err
		}
		if err := kbuild.Validate(args); err != nil {
			return wrongUse("%v", err)
		}
		if err := checkHelmFlags(cmd.Flags()); err != nil {
			return err
		}
		if err := p.setClock(now); err != nil {
			return err
		}
		return p.build(strings.Join(append(args, filesys.SelfDir)[:1], ""), cmd.Flags(), failOn)
	}
	return cmd
}

// build prints what a kustomization with the function in it renders to, or nothing.
func (p *program) build(dir string, flags *pflag.FlagSet, failOn string) error {
	r := &report.Report{Lines: true}
	objects, _, err := p.buildObjects(dir, flags, r)
	if err != nil {
		return err
	}
	if err := p.concludeOn(r, failOn, "; nothing was written"); err != nil {
		return err
	}
	return p.writeObjects(objects, flags.Lookup("output").Value.String())
}

// buildObjects builds a kustomization with the function in it, and returns the function's config as well. Where the
// report has an error, there are no objects.
func (p *program) buildObjects(dir string, flags *pflag.FlagSet, r *report.Report) (resmap.ResMap, *yaml.RNode, error) {
	show, err := p.secret.hide() // from git, helm and other functions
	if err != nil {
		return nil, nil, err
	}
	defer show()
	built, err := kustomize.Run(filesys.MakeFsOnDisk(), dir, kbuild.HonorKustomizeFlags(krusty.MakeDefaultOptions(), flags), readTransformer)
	if err != nil {
		return nil, nil, explainBuild(dir, err)
	}
	items, err := built.Items(withoutPods(built.Config))
	if err != nil {
		return nil, nil, err
	}
	rendered, err := p.renderBuilt(dir, built, items, r)
	if err != nil || r.Failed() {
		return nil, built.Config, err
	}
	objects, err := built.Replace(rendered)
	return objects, built.Config, err
}

// renderBuilt renders what kustomize has built, or hands it over.
func (p *program) renderBuilt(dir string, built *kustomize.Build, items []*yaml.RNode, r *report.Report) ([]*yaml.RNode, error) {
	if run := handOverTo(); run != "" {
		object, err := handOver{items, built.Config}.object(run)
		return []*yaml.RNode{object}, err
	}
	warnOtherImage(built.Config, r)
	rendered := p.renderItems(items, built.Config, pipeline.Options{Mode: pipeline.Build, Namespace: built.Namespace}, r)
	if !r.Failed() {
		warnEmpty(dir, rendered, r)
	}
	return rendered, nil
}

// explainBuild says what to do where kustomize does not find a folder.
func explainBuild(dir string, err error) error {
	state := filepath.Join(dir, pipeline.StateFolder)
	_, missing := os.Stat(dir)
	switch {
	case isFolder(dir) && !isFolder(state) && strings.Contains(err.Error(), "'"+pipeline.StateFolder+"'"):
		return fmt.Errorf("%s: there are no certificates yet. Run `meshless issue %s`, which writes this folder, and commit it; one that was there before, restore from Git", state, dir)
	case errors.Is(missing, os.ErrNotExist) && strings.Contains(err.Error(), "evalsymlink failure"): // and no URL
		return fmt.Errorf("%s: is not there; give the folder that holds the outermost kustomization.yaml, or its URL", dir)
	case missing == nil && !isFolder(dir):
		return fmt.Errorf("%s: is a file; give the folder of the kustomization, and a stream of manifests to `meshless render`", dir)
	case missing == nil && kustomizationFile(dir) == "":
		return fmt.Errorf("%s: holds no kustomization.yaml; give the folder of the outermost one. A stream of manifests goes to `meshless render`, a kpt package to `kpt fn render`", dir)
	}
	return err
}

// withoutPods tells of which objects a render with this config takes no text.
func withoutPods(config *yaml.RNode) func(*yaml.RNode) bool {
	loaded, err := v1alpha1.Load(config)
	if err != nil {
		return func(*yaml.RNode) bool { return true } // the render refuses it
	}
	kinds := manifest.KindsOf(loaded.Spec)
	return func(item *yaml.RNode) bool {
		templates, _ := kinds.Find(item)
		return len(templates) == 0 && item.GetKind() != "List"
	}
}

// warnOtherImage warns where kustomize would run another release of the function than this.
func warnOtherImage(config *yaml.RNode, r *report.Report) {
	spec, err := runtimeutil.GetFunctionSpec(config)
	if err != nil || spec == nil {
		return
	}
	image := spec.Container.Image
	if i := strings.LastIndex(image, ":"); i > strings.LastIndex(image, "/") && !strings.Contains(image, "@") && image[i+1:] != api.Version {
		r.Warn(report.ObjectOf(config), report.Annotation(runtimeutil.FunctionAnnotationKey), "names the image %s, which kustomize would run; this is meshless %s, and rendered in its place", image, api.Version)
	}
}

// writeObjects writes where kustomize would: to standard output, to a file, or to a file for each object in a folder.
func (p *program) writeObjects(objects resmap.ResMap, output string) error {
	if info, err := os.Stat(output); err == nil && info.IsDir() {
		texts, err := individualTexts(objects)
		if err != nil {
			return err
		}
		return writeTexts(output, texts)
	}
	text, err := kustomize.Text(objects)
	if err != nil {
		return err
	}
	if output == "" {
		_, err = p.out.Write(text)
		return err
	}
	return writeText(output, text)
}

// individualTexts are the files that kustomize writes into a folder.
func individualTexts(objects resmap.ResMap) (map[string][]byte, error) {
	memory := filesys.MakeFsInMemory()
	if err := kbuild.MakeWriter(memory).WriteIndividualFiles(filesys.SelfDir, objects); err != nil {
		return nil, err
	}
	names, err := memory.ReadDir(filesys.SelfDir)
	if err != nil {
		return nil, err
	}
	texts := map[string][]byte{}
	for _, name := range names {
		if texts[name], err = memory.ReadFile(name); err != nil {
			return nil, err
		}
	}
	return texts, nil
}

// writeText replaces a file as a whole; what is no file, such as a pipe, it writes to.
func writeText(name string, text []byte) error {
	info, err := os.Stat(name)
	if err == nil && !info.Mode().IsRegular() {
		return os.WriteFile(name, text, 0o644)
	}
	if err == nil { // a symbolic link stays one
		if name, err = filepath.EvalSymlinks(name); err != nil {
			return err
		}
	}
	return writeTexts(filepath.Dir(name), map[string][]byte{filepath.Base(name): text})
}

// writeTexts writes files into a folder: all are on the disk before the first is replaced.
func writeTexts(folder string, texts map[string][]byte) error {
	root, err := os.OpenRoot(folder)
	if err != nil {
		return fmt.Errorf("--output: %w", err)
	}
	defer root.Close()
	_, err = replaceFiles(root, texts)
	return err
}
