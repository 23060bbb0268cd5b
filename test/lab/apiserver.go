//go:build linux

package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"reflect"
	"strconv"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// apiServer serves what CoreDNS reads of an API server: lists and watches of Services, EndpointSlices and Namespaces.
type apiServer struct {
	server *http.Server

	mu        sync.Mutex
	changed   chan struct{} // closed at each change
	resources map[string]*resource
}

// resource is one kind of object.
type resource struct {
	kind, version string
	objects       map[string]any // by namespace/name
	events        []event
	sequence      int // resourceVersion of the latest event
}

type event struct {
	Type     string `json:"type"`
	Object   any    `json:"object"`
	sequence int
}

// The markers tell which revision a name server has read: a Service and an endpoint whose addresses count.
const (
	markerNamespace = "kube-system"
	markerService   = "lab-services"
	markerSlice     = "lab-slices"
)

func markerAddr(revision int) netip.Addr { return after(netip.MustParseAddr("100.64.0.0"), revision) }

// startAPI listens in the first node.
func (l *Lab) startAPI(address string) error {
	a := &apiServer{changed: make(chan struct{}), resources: map[string]*resource{
		"services":       {kind: "Service", version: "v1"},
		"namespaces":     {kind: "Namespace", version: "v1"},
		"endpointslices": {kind: "EndpointSlice", version: "discovery.k8s.io/v1"},
	}}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /api/v1/{resource}", a.serve)
	mux.HandleFunc("GET /apis/discovery.k8s.io/v1/{resource}", a.serve)
	a.server = &http.Server{Handler: mux}
	var listener net.Listener
	if err := l.Node.Do(func() (err error) { listener, err = net.Listen("tcp", address); return err }); err != nil {
		return err
	}
	l.api = a
	go a.server.Serve(listener) // ends with stop
	return nil
}

func (a *apiServer) stop() error { return a.server.Close() }

// publish makes the state of the cluster known to whoever watches. The caller holds l.mu.
func (l *Lab) publish() {
	l.revision++
	if l.api == nil {
		return
	}
	namespaces, services, slices := map[string]any{}, map[string]any{}, map[string]any{}
	add := func(namespace string) {
		namespaces[namespace] = &corev1.Namespace{TypeMeta: typeMeta("v1", "Namespace"), ObjectMeta: metav1.ObjectMeta{Name: namespace}}
	}
	for _, p := range l.pods {
		add(p.Namespace)
	}
	for key, s := range l.services {
		add(s.Namespace)
		services[key] = s.manifest()
		for _, family := range []int{4, 6} {
			if slice := l.endpointSlice(s, family); slice != nil {
				slices[fmt.Sprintf("%s-%d", key, family)] = slice
			}
		}
	}
	marker := &serviceState{ips: []netip.Addr{markerAddr(l.revision)}}
	marker.Namespace, marker.Name = markerNamespace, markerService
	headless := &serviceState{manual: []Endpoint{{IP4: markerAddr(l.revision)}}}
	headless.Namespace, headless.Name, headless.Spec.ClusterIP = markerNamespace, markerSlice, corev1.ClusterIPNone
	l.api.update("namespaces", namespaces, "", nil)
	services[markerNamespace+"/"+markerSlice] = headless.manifest()
	l.api.update("services", services, markerNamespace+"/"+markerService, marker.manifest())
	l.api.update("endpointslices", slices, markerNamespace+"/"+markerSlice, l.endpointSlice(headless, 4))
}

func typeMeta(version, kind string) metav1.TypeMeta {
	return metav1.TypeMeta{APIVersion: version, Kind: kind}
}

// manifest is the Service as the API server holds it.
func (s *serviceState) manifest() *corev1.Service {
	object := s.Service.DeepCopy()
	object.TypeMeta = typeMeta("v1", "Service")
	object.Spec.ClusterIPs = nil
	for _, ip := range s.ips {
		object.Spec.ClusterIPs = append(object.Spec.ClusterIPs, ip.String())
	}
	switch {
	case s.headless():
		object.Spec.ClusterIPs = []string{corev1.ClusterIPNone}
	case len(s.ips) > 0:
		object.Spec.ClusterIP = object.Spec.ClusterIPs[0]
	}
	if object.Spec.Type == "" {
		object.Spec.Type = corev1.ServiceTypeClusterIP
	}
	return object
}

// endpointSlice is what the controller or somebody writes for the Service; nil where that is nothing.
func (l *Lab) endpointSlice(s *serviceState, family int) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{
		TypeMeta: typeMeta("discovery.k8s.io/v1", "EndpointSlice"),
		ObjectMeta: metav1.ObjectMeta{Namespace: s.Namespace, Name: fmt.Sprintf("%s-%d", s.Name, family),
			Labels: map[string]string{discoveryv1.LabelServiceName: s.Name}},
		AddressType: map[int]discoveryv1.AddressType{4: discoveryv1.AddressTypeIPv4, 6: discoveryv1.AddressTypeIPv6}[family],
	}
	for _, e := range l.endpoints(s) {
		if ip := e.ip(family); ip.IsValid() {
			endpoint := discoveryv1.Endpoint{Addresses: []string{ip.String()}, Conditions: discoveryv1.EndpointConditions{Ready: &e.ready}}
			if e.hostname != "" {
				endpoint.Hostname = &e.hostname
			}
			slice.Endpoints = append(slice.Endpoints, endpoint)
		}
	}
	for _, port := range s.Spec.Ports {
		slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &port.Name, Port: &port.Port})
	}
	if len(slice.Endpoints) == 0 {
		return nil
	}
	return slice
}

// update replaces the objects of a kind; the marker, which always changes, comes last.
func (a *apiServer) update(name string, objects map[string]any, markerKey string, marker any) {
	a.mu.Lock()
	defer a.mu.Unlock()
	r := a.resources[name]
	for _, key := range sortedKeys(r.objects) {
		if _, kept := objects[key]; !kept && key != markerKey {
			r.add("DELETED", r.objects[key])
		}
	}
	put := func(key string, object any) {
		old, known := r.objects[key]
		switch {
		case !known:
			r.add("ADDED", object)
		case !reflect.DeepEqual(old, object):
			r.add("MODIFIED", object)
		}
	}
	for _, key := range sortedKeys(objects) {
		put(key, objects[key])
	}
	if marker != nil {
		put(markerKey, marker)
		objects[markerKey] = marker
	}
	r.objects = objects
	close(a.changed)
	a.changed = make(chan struct{})
}

func (r *resource) add(kind string, object any) {
	r.sequence++
	r.events = append(r.events, event{kind, versioned{object, r.sequence}, r.sequence})
}

// versioned is an object with a resourceVersion, which does not count when objects are compared.
type versioned struct {
	object   any
	sequence int
}

func (v versioned) MarshalJSON() ([]byte, error) {
	data, err := json.Marshal(v.object)
	if err != nil {
		return nil, err
	}
	var fields map[string]any
	if err := json.Unmarshal(data, &fields); err != nil {
		return nil, err
	}
	metadata, ok := fields["metadata"].(map[string]any)
	if !ok {
		return nil, errors.New("object without metadata")
	}
	metadata["resourceVersion"] = strconv.Itoa(v.sequence)
	return json.Marshal(fields)
}

// serve answers a list or a watch.
func (a *apiServer) serve(w http.ResponseWriter, req *http.Request) {
	a.mu.Lock()
	r := a.resources[req.PathValue("resource")]
	a.mu.Unlock()
	if r == nil {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	query := req.URL.Query()
	if query.Get("watch") == "" {
		a.list(w, r)
		return
	}
	after, _ := strconv.Atoi(query.Get("resourceVersion")) // none is 0: everything
	if query.Get("sendInitialEvents") == "true" {
		after = -1
	}
	a.watch(req.Context(), w, r, after)
}

func (a *apiServer) list(w http.ResponseWriter, r *resource) {
	a.mu.Lock()
	defer a.mu.Unlock()
	items := []any{}
	for _, key := range sortedKeys(r.objects) {
		items = append(items, versioned{r.objects[key], r.sequence})
	}
	writeJSON(w, map[string]any{
		"apiVersion": r.version, "kind": r.kind + "List", "items": items, "metadata": map[string]string{"resourceVersion": strconv.Itoa(r.sequence)},
	})
}

// watch sends the events behind a resourceVersion for as long as the client listens; -1 asks for the state first, as
// events, with a bookmark at its end (KEP-3157).
func (a *apiServer) watch(ctx context.Context, w http.ResponseWriter, r *resource, after int) {
	for {
		a.mu.Lock()
		var send []event
		if after < 0 {
			for _, key := range sortedKeys(r.objects) {
				send = append(send, event{"ADDED", versioned{r.objects[key], r.sequence}, r.sequence})
			}
			send = append(send, event{"BOOKMARK", map[string]any{"apiVersion": r.version, "kind": r.kind, "metadata": map[string]any{
				"resourceVersion": strconv.Itoa(r.sequence), "annotations": map[string]string{metav1.InitialEventsAnnotationKey: "true"},
			}}, r.sequence})
			after = r.sequence
		} else {
			send = r.events[after:]
			after = r.sequence
		}
		changed := a.changed
		a.mu.Unlock()
		for _, e := range send {
			writeJSON(w, e)
		}
		w.(http.Flusher).Flush()
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// writeJSON leaves out the error: a client that has gone is seen by the context.
func writeJSON(w http.ResponseWriter, value any) { _ = json.NewEncoder(w).Encode(value) }
