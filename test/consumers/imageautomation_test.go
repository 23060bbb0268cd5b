package consumers

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sigs.k8s.io/kustomize/kyaml/kio"
	kyaml "sigs.k8s.io/kustomize/kyaml/yaml"

	"github.com/meshless-dev/meshless/internal/api"
	"github.com/meshless-dev/meshless/test/example"
)

// What Flux's image automation looks for: a comment at the end of the line whose value it writes.
const (
	appMarker   = ` # {"$imagepolicy": "flux-system:shop"}`
	proxyMarker = ` # {"$imagepolicy": "flux-system:meshless-proxy:tag"}`
)

// The markers of Flux's image automation stay where their owner wrote them, in the sources of a kustomization and in a
// kpt package rendered in place, and what the automation then writes is what the next render takes. Its controller is
// not among the modules that can be had here, so setImages stands for it.
func TestFluxImageAutomation(t *testing.T) {
	for name, render := range map[string]func(*testing.T, *example.Example) string{
		"kustomization": func(t *testing.T, e *example.Example) string {
			e.Issue(t, time.Now())
			return e.Render(t)
		},
		"kpt": func(t *testing.T, e *example.Example) string {
			e.IssuePackage(t, time.Now())
			return strings.Join([]string{files(t, e.Dir)["/base/api.yaml"], files(t, e.Dir)["/base/db.yaml"]}, "---\n")
		},
	} {
		t.Run(name, func(t *testing.T) {
			e := example.Copy(t, "../../examples/shop")
			if name == "kpt" {
				remove(t, e, "kustomization.yaml", "base/kustomization.yaml", "mtls")
			}
			e.Replace(t, "base/api.yaml", "image: "+example.AppImage, "image: "+example.AppImage+appMarker)
			e.Edit(t, "mtls.yaml", func(text string) string {
				return text + "  proxy:\n    image: " + api.ProxyImage + proxyMarker + "\n"
			})
			first := render(t, e)
			if got := markers(t, e.Dir); got != 2 {
				t.Fatalf("%d markers are left of 2", got)
			}
			const newTag = "v9.9.9"
			proxy, _, _ := strings.Cut(api.ProxyImage, ":")
			if n := setImages(t, e.Dir, map[string]string{appMarker: "ghcr.io/meshless-dev/shop:" + newTag, proxyMarker: proxy + ":" + newTag}); n != 2 {
				t.Fatalf("the automation wrote %d values, want 2", n)
			}
			second := render(t, e)
			if got := markers(t, e.Dir); got != 2 {
				t.Errorf("%d markers are left of 2 after the second render", got)
			}
			for _, image := range []string{"image: ghcr.io/meshless-dev/shop:" + newTag, "image: " + proxy + ":" + newTag} {
				if strings.Contains(first, image) || !strings.Contains(second, image) {
					t.Errorf("%s: %d times before, %d times after", image, strings.Count(first, image), strings.Count(second, image))
				}
			}
		})
	}
}

// markers counts the markers in a folder.
func markers(t *testing.T, dir string) (n int) {
	t.Helper()
	for _, text := range files(t, dir) {
		n += strings.Count(text, appMarker) + strings.Count(text, proxyMarker)
	}
	return n
}

// setImages writes the values whose lines have the markers, and nothing else, as the controller does: on the nodes of
// YAML, by the comment.
func setImages(t *testing.T, dir string, images map[string]string) (n int) {
	t.Helper()
	for name := range files(t, dir) {
		path := filepath.Join(dir, name)
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(text), "$imagepolicy") {
			continue
		}
		objects, err := (&kio.ByteReader{Reader: strings.NewReader(string(text)), OmitReaderAnnotations: true}).Read()
		if err != nil {
			t.Fatal(err)
		}
		var out strings.Builder
		for _, object := range objects {
			n += setNode(object.YNode(), images)
		}
		if err := (kio.ByteWriter{Writer: &out}).Write(objects); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(out.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return n
}

func setNode(node *kyaml.Node, images map[string]string) (n int) {
	if image, ok := images[" "+node.LineComment]; ok && node.LineComment != "" {
		node.Value = image
		n++
	}
	for _, child := range node.Content {
		n += setNode(child, images)
	}
	return n
}
