package graph

import (
	"cmp"
	"errors"
	"fmt"
	"math"
	"path"
	"slices"
	"strings"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/fn/manifest"
	"github.com/meshless-dev/meshless/fn/node"
	"github.com/meshless-dev/meshless/fn/podspec"
	"github.com/meshless-dev/meshless/fn/policy"
	"github.com/meshless-dev/meshless/fn/report"
	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/netset"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// builder gathers what the items say.
type builder struct {
	graph    Graph
	kinds    manifest.Kinds
	meshes   map[string]*meshmap.Map // by namespace
	pods     []*manifest.Workload
	places   map[*manifest.Workload]int // in graph.Nodes
	seen     map[string]bool            // IDs of nodes
	byID     map[string][]string        // IDs of the Mesh nodes of a SPIFFE ID
	services []corev1.Service

	declarations []*manifest.Declaration
	references   []manifest.Reference
	edges        map[[2]string]Edge
}

// Build reads rendered manifests: workloads and Services from the objects, who may connect from the mesh maps. It
// verifies nothing; package verify does. What it cannot understand is an error, since a picture with a part missing
// looks complete.
func Build(items []*yaml.RNode, kinds manifest.Kinds) (Graph, error) {
	b := &builder{kinds: kinds, meshes: map[string]*meshmap.Map{}, seen: map[string]bool{}, byID: map[string][]string{}, places: map[*manifest.Workload]int{}, edges: map[[2]string]Edge{}}
	for i, item := range items {
		if err := node.CheckItem(item); err != nil {
			return Graph{}, fmt.Errorf("%s: %w", cmp.Or(strings.TrimSpace(report.NameOf(item)), fmt.Sprintf("document %d of the input", i+1)), err)
		}
	}
	items = manifest.Flatten(items)
	for _, item := range manifest.FindState(items).Meshes {
		if err := b.readMesh(item); err != nil {
			return Graph{}, err
		}
	}
	for _, item := range items {
		if d, err := manifest.ReadDeclaration(item); err == nil && d != nil { // readItem says what is wrong
			b.declarations = append(b.declarations, d)
		}
	}
	for _, item := range items {
		if err := b.readItem(item); err != nil {
			return Graph{}, err
		}
	}
	if len(b.meshes) == 0 {
		return Graph{}, errors.New("there is no mesh map (configmap " + api.MeshName("<package>") + ") in the input; give it rendered manifests: " +
			"the output of `kustomize build`, or a kpt package that was rendered")
	}
	if err := b.addReferring(); err != nil {
		return Graph{}, err
	}
	b.joinServices()
	b.admitAll()
	b.finish()
	return b.graph, nil
}

func (b *builder) readMesh(item *yaml.RNode) error {
	mesh, err := meshmap.Parse([]byte(item.GetDataMap()[api.MeshFile]))
	if err != nil {
		return fmt.Errorf("%s: %w", report.NameOf(item), err)
	}
	if b.graph.TrustDomain != "" && b.graph.TrustDomain != mesh.TrustDomain {
		return fmt.Errorf("%s: is of trust domain %q, and another map of %q; draw one mesh at a time", report.NameOf(item), mesh.TrustDomain, b.graph.TrustDomain)
	}
	b.graph.TrustDomain = mesh.TrustDomain
	b.meshes[manifest.NamespaceOf(item)] = mesh
	return nil
}

func (b *builder) readItem(item *yaml.RNode) error {
	if manifest.IsLocalConfig(item) {
		return nil
	}
	if d, err := manifest.ReadDeclaration(item); err != nil {
		return fmt.Errorf("%s: %s %w", report.ObjectOf(item), report.Annotation(api.DeclaredAnnotation), err)
	} else if d != nil {
		b.services = append(b.services, d.CoreServices()...)
		return b.addWorkload(d.Node, d.PodTemplate())
	}
	templates, ok := b.kinds.Find(item)
	switch {
	case b.declared(item):
	case ok:
		return b.addWorkloads(item, templates)
	case len(manifest.PodFields(item)) > 0:
		return b.add(Node{Class: Outside, Namespace: manifest.NamespaceOf(item), Kind: item.GetKind(), Name: item.GetName()}, report.ObjectOf(item), report.NameOf(item), nil, nil)
	case manifest.HidesNothing(item):
	case manifest.IsList(item):
		return fmt.Errorf("%s: is a list, which hides its objects; write them as documents of their own", report.NameOf(item))
	case item.GetKind() == "Service" && item.GetApiVersion() == "v1" && item.GetAnnotations()[api.IdentityAnnotation] == "":
		var service corev1.Service
		if err := node.Decode(item, &service); err != nil {
			return fmt.Errorf("%s: cannot be read: %w", report.NameOf(item), err)
		}
		service.Namespace = manifest.NamespaceOf(item)
		b.services = append(b.services, service)
	}
	return nil
}

// declared tells whether the pods that an item makes are those of a declared workload, which is a node of its own.
func (b *builder) declared(item *yaml.RNode) bool {
	return slices.ContainsFunc(b.declarations, func(d *manifest.Declaration) bool { return d.Is(item) })
}

// addWorkloads adds the workloads of an item of a known kind. One that refers to another's template makes that one's
// pods.
func (b *builder) addWorkloads(item *yaml.RNode, templates []manifest.Template) error {
	if field := b.kinds.Missing(item); field != "" {
		return fmt.Errorf("%s: %s is missing", report.NameOf(item), field)
	}
	if reference, refers := manifest.ReferenceOf(item); refers && len(templates) == 0 {
		b.references = append(b.references, reference)
	}
	for _, t := range templates {
		if err := b.addWorkload(item, t); err != nil {
			return err
		}
	}
	return nil
}

// addReferring draws objects whose pods are made of a template that is not in the input: nothing shows that they are in
// the mesh.
func (b *builder) addReferring() error {
	for _, ref := range b.references {
		target := nodeID(manifest.EffectiveNamespace(ref.To), ref.To.Kind, ref.To.Name)
		if b.seen[target] {
			continue
		}
		if err := b.add(Node{Class: Outside, Namespace: manifest.EffectiveNamespace(ref.From), Kind: ref.From.Kind, Name: ref.From.Name}, ref.From, ref.From.String(), nil, nil); err != nil {
			return err
		}
	}
	return nil
}

// nodeID is the ID of the node of a workload.
func nodeID(namespace, kind, name string) string {
	return namespace + "/" + strings.ToLower(kind) + "/" + name
}

// addWorkload reads what the proxy and the init container of a workload are told.
func (b *builder) addWorkload(item *yaml.RNode, t manifest.Template) error {
	object, named := report.ObjectOf(item), report.NameOf(item)
	var pod corev1.PodTemplateSpec
	if err := node.Decode(yaml.NewRNode(node.At(item.YNode(), t.Path...)), &pod); err != nil {
		return fmt.Errorf("%s: cannot be read: %w", named, err)
	}
	n := Node{Class: Outside, Namespace: manifest.NamespaceOf(item), Kind: item.GetKind(), Name: t.Name}
	if !podspec.Injected(&pod) {
		if begins := manifest.GenerateName(item); object.Name == "" && begins != "" {
			n.Name = begins + "*"
			if b.seen[nodeID(n.Namespace, n.Kind, n.Name)] {
				return nil // nothing tells the two apart
			}
		}
		return b.add(n, object, named, pod.Labels, nil)
	}
	plan, err := podspec.Parse(&pod)
	if err != nil {
		return fmt.Errorf("%s: %s.%w; see `meshless verify`", named, t.Field(), err)
	}
	mesh := b.meshes[n.Namespace]
	if mesh == nil {
		return fmt.Errorf("%s: the mesh map of its namespace (configmap %s/%s) is not in the input; give it the whole output", named, n.Namespace, api.MeshName(plan.Package))
	}
	if name := path.Base(plan.Workload.SPIFFEID); t.Called(name) {
		n.Name = name
	}
	n.Class, n.Identity, n.PermissivePorts = Mesh, plan.Workload.SPIFFEID, plan.Workload.PermissivePorts.String()
	n.PlaintextPorts, n.PlaintextInterfaces = plan.Redirect.ExcludeInboundPorts, plan.Redirect.ExcludeInboundInterfaces
	n.Bypass, n.NoRedirect = bypass(plan.Redirect), plan.NoRedirect()
	n.TLSPassthroughPorts = plan.Workload.TLSPassthroughPorts
	if mesh.Inbound.Mode == meshmap.Permissive {
		n.PermissivePorts, n.StrictPorts, n.TLSPassthroughPorts = AllPorts, plan.Workload.StrictPorts, nil
	}
	if mesh.Outbound.Unknown == meshmap.Passthrough {
		b.graph.Open = append(b.graph.Open, n.Namespace)
	}
	return b.add(n, object, named, pod.Labels, plan)
}

// bypass says what a workload sends around its proxy.
func bypass(args podplan.InitArgs) []string {
	return slices.Concat(eachAs("port %v", args.ExcludeOutboundPorts), eachAs("network %v", args.ExcludeOutboundCIDRs),
		eachAs("interface %v", args.ExcludeOutboundInterfaces), eachAs("user %v", args.ExcludeOutboundUIDs))
}

func eachAs[E any](format string, list []E) (texts []string) {
	for _, e := range list {
		texts = append(texts, fmt.Sprintf(format, e))
	}
	return texts
}

// add adds a node; named is its object in messages, with its file.
func (b *builder) add(n Node, object report.Object, named string, labels map[string]string, plan *podplan.Plan) error {
	if n.Name == "" {
		return fmt.Errorf("%s: has no name", named)
	}
	n.ID = nodeID(n.Namespace, n.Kind, n.Name)
	if b.seen[n.ID] {
		return fmt.Errorf("%s: stands twice in the input", named)
	}
	b.seen[n.ID] = true
	if n.Identity != "" {
		b.byID[n.Identity] = append(b.byID[n.Identity], n.ID)
	}
	b.graph.Nodes = append(b.graph.Nodes, n)
	w := &manifest.Workload{Object: object, Kind: n.Kind, Name: n.Name, Namespace: n.Namespace, Plan: plan}
	w.Pod.Labels = labels
	b.pods, b.places[w] = append(b.pods, w), len(b.graph.Nodes)-1
	return nil
}

// joinServices puts each Service in front of the workloads that it selects, or among the nodes when it leads elsewhere.
func (b *builder) joinServices() {
	find := manifest.NewFinder(b.pods)
	for _, s := range b.services {
		front := Service{Name: s.Name}
		for _, p := range s.Spec.Ports {
			switch {
			case p.Port <= 0 || p.Port > math.MaxUint16:
			case !manifest.IsTCP(p.Protocol):
				front.PlaintextPorts = append(front.PlaintextPorts, manifest.PortName(p))
			default:
				front.Ports = front.Ports.Union(netset.PortsOf(uint16(p.Port)))
			}
		}
		class, kind := b.leadsTo(s, find)
		if class == "" {
			for _, w := range find.Workloads(s) {
				node := &b.graph.Nodes[b.places[w]]
				node.Services = append(node.Services, front)
			}
			continue
		}
		if id := s.Namespace + "/v1.service/" + s.Name; !b.seen[id] {
			b.seen[id] = true
			b.graph.Nodes = append(b.graph.Nodes, Node{ID: id, Class: class, Namespace: s.Namespace, Kind: kind, Name: s.Name, Services: []Service{front}})
		}
	}
}

// leadsTo tells what a Service is that is a node of its own: it leads elsewhere than to workloads of the input.
func (b *builder) leadsTo(s corev1.Service, find *manifest.Finder) (class Class, kind string) {
	if s.Spec.Type == corev1.ServiceTypeExternalName {
		return External, cmp.Or(s.Spec.ExternalName, "ExternalName")
	}
	mesh, kind := b.meshes[s.Namespace], "Service"
	if len(s.Spec.Selector) == 0 {
		kind = "Service without selector"
	}
	workloads := find.Workloads(s)
	inMesh := slices.ContainsFunc(workloads, func(w *manifest.Workload) bool { return w.Plan != nil })
	switch said := mesh != nil && slices.Contains(mesh.Outside, s.Name+"."+s.Namespace); {
	case said && (inMesh || len(workloads) == 0): // spec.outbound.plaintextServices
		return External, kind
	case len(workloads) > 0:
		return "", ""
	case mesh != nil:
		return Unknown, kind
	case len(s.Spec.Selector) == 0:
		return External, kind
	}
	return "", ""
}

// admitAll draws the edges to each workload, as its proxy decides: from whoever a policy of the workload allows, and
// only without any policy as the default says.
func (b *builder) admitAll() {
	policies := map[string][]meshmap.Rule{} // by namespace and SPIFFE ID; nil and there for a policy without a rule
	key := func(namespace, identity string) string { return namespace + " " + identity }
	for namespace, mesh := range b.meshes {
		for _, p := range mesh.Inbound.Policy {
			k := key(namespace, p.Workload)
			policies[k] = append(policies[k], p.Rules...)
		}
	}
	for i := range b.graph.Nodes {
		n := &b.graph.Nodes[i]
		if n.Class != Mesh {
			continue
		}
		rules, named := policies[key(n.Namespace, n.Identity)]
		n.DryRun = b.meshes[n.Namespace].Inbound.DryRun
		switch {
		case named && len(rules) > 0:
			n.Access = ByPolicy
			b.admit(n, rules)
		case !named && b.meshes[n.Namespace].Inbound.Default == meshmap.AllowMesh:
			n.Access = ByDefault
			b.edge(AnyMeshID, n.ID, nil)
		default:
			n.Access = Nobody
		}
	}
}

// admit draws an edge from every workload that a rule's patterns match. A pattern that matches none is a node of its
// own: it may mean somebody in another package.
func (b *builder) admit(to *Node, rules []meshmap.Rule) {
	for _, rule := range rules {
		for _, pattern := range rule.From {
			from := b.matching(pattern)
			if len(from) == 0 {
				from = []string{pattern}
			}
			for _, id := range from {
				b.edge(id, to.ID, rule.Ports)
			}
		}
	}
}

// matching are the IDs of the nodes whose SPIFFE ID a pattern matches. Most patterns are plain identities and are
// looked up; that of every workload is a node, since an edge from each would hide what is said.
func (b *builder) matching(pattern string) []string {
	if pattern == policy.AnyMember(b.graph.TrustDomain) {
		return nil
	}
	if !strings.Contains(pattern, "*") {
		return b.byID[pattern]
	}
	var ids []string
	for identity, nodes := range b.byID {
		if meshmap.MatchID(pattern, spiffeid.RequireFromString(identity)) { // ParseWorkload has read it
			ids = append(ids, nodes...)
		}
	}
	return ids
}

// edge joins what several rules allow between the same two.
func (b *builder) edge(from, to string, ports netset.Ports) {
	key := [2]string{from, to}
	if old, ok := b.edges[key]; ok {
		if len(old.Ports) == 0 || len(ports) == 0 {
			ports = nil
		} else {
			ports = old.Ports.Union(ports)
		}
	}
	b.edges[key] = Edge{From: from, To: to, Ports: ports}
}

// finish adds the nodes that are in no manifest, and sorts.
func (b *builder) finish() {
	special := map[string]Node{}
	for _, e := range b.edges {
		b.graph.Edges = append(b.graph.Edges, e)
		switch {
		case e.From == AnyMeshID:
			special[e.From] = Node{ID: e.From, Class: AnyMesh, Name: "any identity of the mesh", Identity: "spiffe://" + b.graph.TrustDomain}
		case e.From == policy.AnyMember(b.graph.TrustDomain):
			special[e.From] = Node{ID: e.From, Class: Identity, Name: "every workload of the mesh", Identity: e.From}
		case meshmap.ValidateIDPattern(e.From) == nil && meshmap.PatternDomain(e.From) != b.graph.TrustDomain:
			td := meshmap.PatternDomain(e.From)
			special[e.From] = Node{ID: e.From, Class: Identity, Kind: "trust domain " + td, Name: strings.TrimPrefix(e.From, "spiffe://"+td+"/"), Identity: e.From}
		case !b.seen[e.From]:
			special[e.From] = Node{ID: e.From, Class: Identity, Name: strings.TrimPrefix(e.From, "spiffe://"+b.graph.TrustDomain+"/"), Identity: e.From}
		}
	}
	for _, n := range special {
		b.graph.Nodes = append(b.graph.Nodes, n)
	}
	if len(b.graph.Open) > 0 {
		b.graph.Nodes = append(b.graph.Nodes, Node{ID: AnywhereID, Class: Anywhere, Name: "anywhere else", Kind: "outside of the mesh"})
	}
	b.graph.sorted()
}
