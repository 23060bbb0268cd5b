package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
)

// graphFormats are the writers by the value of --output.
var graphFormats = []struct {
	name  string
	write func(io.Writer, graph.Graph) error
}{{"mermaid", graph.WriteMermaid}, {"dot", graph.WriteDOT}, {"svg", writeSVG}, {"json", graph.WriteJSON}}

func (p *program) graphCommand() *cobra.Command {
	var names []string
	for _, f := range graphFormats {
		names = append(names, f.name)
	}
	format := names[0]
	cmd := &cobra.Command{
		Use:   "graph [FILE, DIR or -]",
		Short: "Draw who may talk to whom: Mermaid for the pull request, DOT, SVG, JSON",
		Long: `Draw who may talk to whom, from rendered manifests: who is in the mesh, whom its policies let in and on which ports,
and where plaintext is taken or sent.

DIR is a folder of rendered manifests, or a kustomization, which is built as 'meshless build' does, with the flags of
'kustomize build'.`,
		Example: "  meshless graph DIR\n  kustomize build --enable-alpha-plugins --enable-exec DIR | meshless graph -o svg - > mesh.svg",
		Args:    cobra.MaximumNArgs(1), ValidArgsFunction: completeFile,
		RunE: func(cmd *cobra.Command, args []string) error { return p.graph(sourceOf(args), cmd.Flags(), format, names) },
	}
	cmd.Flags().StringVarP(&format, "output", "o", format, strings.Join(names, ", "))
	kustomizeFlags(cmd.Flags())
	if err := cmd.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(names, cobra.ShellCompDirectiveNoFileComp)); err != nil {
		panic(err) // the flag is there
	}
	return cmd
}

func (p *program) graph(source string, flags *pflag.FlagSet, format string, names []string) error {
	at := slices.Index(names, format)
	if at < 0 {
		return wrongUse("--output: %q is none of %s", format, strings.Join(names, ", "))
	}
	r := &report.Report{Lines: true}
	items, config, err := p.readRendered(source, flags, r)
	if err != nil {
		return err
	}
	if err := p.conclude(r); err != nil {
		return err
	}
	if config != nil {
		items = append(items, config)
	}
	g, err := graph.Build(items, manifest.KindsOf(specIn(items)))
	if err != nil {
		return err
	}
	var text bytes.Buffer
	if err := graphFormats[at].write(&text, g); err != nil {
		return err
	}
	if format == names[0] && (text.Len() > graph.MermaidMaxText || bytes.Count(text.Bytes(), []byte("->|")) > graph.MermaidMaxEdges) {
		fmt.Fprintf(p.err, "warning: this is more than GitHub draws of a Mermaid chart (%d characters, %d edges); use -o svg, or a part of the manifests\n", graph.MermaidMaxText, graph.MermaidMaxEdges)
	}
	_, err = p.out.Write(text.Bytes())
	return err
}

// writeSVG lets Graphviz lay the graph out.
func writeSVG(w io.Writer, g graph.Graph) error {
	var text, failure bytes.Buffer
	if err := graph.WriteDOT(&text, g); err != nil {
		return err
	}
	dot := exec.Command("dot", "-Tsvg")
	dot.Stdin, dot.Stdout, dot.Stderr = &text, w, &failure
	switch err := dot.Run(); {
	case errors.Is(err, exec.ErrNotFound):
		return errors.New("--output: svg needs dot of Graphviz in the PATH; install it (apt-get install graphviz, brew install graphviz), or take -o dot")
	case err != nil:
		return fmt.Errorf("--output: dot -Tsvg: %w: %s", err, strings.TrimSpace(failure.String()))
	}
	return nil
}
