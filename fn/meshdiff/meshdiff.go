// Package meshdiff says what differs between two renders of a mesh, for the people who review a change. It speaks of
// workloads, ports, rules and trust, not of YAML. It verifies nothing; package verify does.
package meshdiff

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/graph"
	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/fn/statediff"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
)

// Mark says what a change is to the mesh.
type Mark string

// The marks.
const (
	Weaker  Mark = "!" // less is protected, or more is trusted
	Gained  Mark = "+"
	Lost    Mark = "-"
	Changed Mark = "~"
)

// area is what a change is about; changes are sorted by it first.
type area int

const (
	namespaces area = iota
	workloads
	services
	rules
	trust
	certificates
	images
)

// Change is one line.
type Change struct {
	Mark  Mark
	Text  string
	Names []string // what a count in the text counts
	area  area
}

// Side is one of the two renders.
type Side struct {
	graph  graph.Graph
	maps   map[string]*meshmap.Map // by namespace
	state  *statediff.State
	images []string
}

// Read reads rendered manifests, and the images of ours in them. Findings about the state go to the report.
func Read(items []*yaml.RNode, kinds manifest.Kinds, images []string, r *report.Report) (*Side, error) {
	g, err := graph.Build(items, kinds)
	if err != nil {
		return nil, err
	}
	s := &Side{graph: g, maps: map[string]*meshmap.Map{}, state: statediff.ReadState(items, r), images: images}
	for _, item := range manifest.FindState(manifest.Flatten(items)).Meshes {
		if s.maps[manifest.NamespaceOf(item)], err = meshmap.Parse([]byte(item.GetDataMap()[api.MeshFile])); err != nil {
			return nil, fmt.Errorf("%s: %w", report.NameOf(item), err)
		}
	}
	return s, nil
}

// Nothing is the side of a mesh that is not there.
func Nothing() *Side {
	return &Side{maps: map[string]*meshmap.Map{}, state: statediff.ReadState(nil, &report.Report{})}
}

// HasMesh tells whether manifests hold anything that Read can read.
func HasMesh(items []*yaml.RNode) bool {
	return len(manifest.FindState(manifest.Flatten(items)).Meshes) > 0
}

// With adds what lies beside a render: the CertificateAuthority, which says until when a key is revoked.
func (s *Side) With(beside []*yaml.RNode) {
	if authority := statediff.ReadState(beside, &report.Report{}); authority.HasAuthority {
		s.state = s.state.With(authority)
	}
}

// comparison gathers the changes from base to head.
type comparison struct {
	base, head *Side
	now        time.Time
	changes    []Change
}

// Compare lists what changes from base to head, in an order that does not depend on the input's.
func Compare(base, head *Side, now time.Time) []Change {
	c := &comparison{base: base, head: head, now: now}
	c.compareNamespaces()
	c.compareWorkloads()
	c.compareServices()
	c.compareRules()
	c.compareTrust()
	c.compareCertificates()
	c.compareImages()
	slices.SortStableFunc(c.changes, func(a, b Change) int {
		return cmp.Or(cmp.Compare(a.area, b.area), cmp.Compare(a.Text, b.Text), cmp.Compare(a.Mark, b.Mark))
	})
	return c.changes
}

// say adds a change. Manifests choose the names in it, and none of them can begin a line of its own.
func (c *comparison) say(a area, mark Mark, format string, args ...any) {
	c.changes = append(c.changes, Change{area: a, Mark: mark, Text: oneLine(fmt.Sprintf(format, args...))})
}

// sayIf is say with one of two marks.
func (c *comparison) sayIf(a area, condition bool, then, otherwise Mark, format string, args ...any) {
	if condition {
		otherwise = then
	}
	c.say(a, otherwise, format, args...)
}

func oneLine(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

// added are the elements of now that are not among before.
func added(before, now []string) []string {
	return slices.DeleteFunc(slices.Clone(now), func(e string) bool { return slices.Contains(before, e) })
}
