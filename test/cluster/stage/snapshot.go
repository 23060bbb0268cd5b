package stage

import (
	"encoding/json"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Object is what tells whether something was written.
type Object struct {
	Metadata metav1.ObjectMeta `json:"metadata"`
}

// snapshotKinds are all that a render has, and what its Deployments own.
const snapshotKinds = "deployments,statefulsets,cronjobs,replicasets,services,secrets,configmaps,pods"

// Snapshot is every object of a namespace, by kind and name.
func Snapshot(t *testing.T, namespace string) map[string]Object {
	t.Helper()
	var list struct {
		Items []struct {
			Kind string `json:"kind"`
			Object
		} `json:"items"`
	}
	if err := json.Unmarshal([]byte(Must(t, "", "-n", namespace, "get", snapshotKinds, "-o", "json", "--show-managed-fields")), &list); err != nil {
		t.Fatal(err)
	}
	all := map[string]Object{}
	for _, item := range list.Items {
		all[item.Kind+"/"+item.Metadata.Name] = item.Object
	}
	return all
}

// versions are what changes when an object is written. Of pods it is who they are: the kubelet writes their status when
// it likes.
func versions(all map[string]Object) map[string]string {
	versions := map[string]string{}
	for name, o := range all {
		versions[name] = o.Metadata.ResourceVersion
		if strings.HasPrefix(name, "Pod/") {
			versions[name] = string(o.Metadata.UID)
		}
	}
	return versions
}

// WantSame wants every object to be at the version at which it was.
func WantSame(t *testing.T, before, now map[string]Object) {
	t.Helper()
	if diff := cmp.Diff(versions(before), versions(now)); diff != "" {
		t.Errorf("something was written:\n%s", diff)
	}
}

// Settled is a snapshot that did not change for a second: controllers write the status of what was just made.
func Settled(t *testing.T, namespace string) map[string]Object {
	t.Helper()
	var last map[string]Object
	for range 20 {
		now := Snapshot(t, namespace)
		if last != nil && maps.Equal(versions(last), versions(now)) {
			return now
		}
		last = now
		time.Sleep(time.Second)
	}
	t.Fatalf("the objects of %s change all the time", namespace)
	return nil
}
