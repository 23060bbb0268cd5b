package hold

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/internal/meshmap"
	"github.com/meshless-dev/meshless/internal/podplan"
)

// TestEdition: proxies read mesh.yaml and workload.json strictly. A field more is one that the proxy of a Job that is
// held back does not know, so api.FilesEdition has to change with it. No flag writes the file: this is to be read.
func TestEdition(t *testing.T) {
	const file = "testdata/fields.txt"
	fields := []string{"edition " + api.FilesEdition}
	fieldsOf(reflect.TypeFor[meshmap.Map](), "mesh.yaml", map[reflect.Type]bool{}, &fields)
	fieldsOf(reflect.TypeFor[podplan.Workload](), "workload.json", map[reflect.Type]bool{}, &fields)
	slices.Sort(fields)
	got := strings.Join(slices.Compact(fields), "\n") + "\n"
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("the files have other fields. Change api.FilesEdition, unless it has changed since the last release, and make testdata/fields.txt (-want +got):\n%s\nof\n%s", diff, got)
	}
}

// fieldsOf are the fields of a struct, and those of its fields.
func fieldsOf(of reflect.Type, path string, above map[reflect.Type]bool, fields *[]string) {
	for of.Kind() == reflect.Pointer || of.Kind() == reflect.Slice || of.Kind() == reflect.Map {
		of = of.Elem()
	}
	if of.Kind() != reflect.Struct || above[of] || !strings.HasPrefix(of.PkgPath(), "github.com/meshless-dev/") {
		return
	}
	above[of] = true
	defer delete(above, of)
	for i := range of.NumField() {
		field := of.Field(i)
		if !field.IsExported() {
			continue
		}
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" {
			name = field.Name
		}
		at := path + "." + name
		*fields = append(*fields, fmt.Sprintf("%s %s", at, field.Type))
		fieldsOf(field.Type, at, above, fields)
	}
}
