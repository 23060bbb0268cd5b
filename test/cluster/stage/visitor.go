//go:build linux

package stage

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Visitor is the Deployment of the second package. It asks back, as guest does.
const Visitor = "visitor"

// Visit adds a second package to a chain that is not yet deployed: another folder, in a namespace of its own, with the
// same CA. Whatever is done to the chain is done to it.
func (c *Chain) Visit(t *testing.T) {
	t.Helper()
	namespace := c.Namespace + "-visitor"
	v := NewChain(t, namespace)
	guest, err := os.ReadFile(filepath.Join(v.Folder.Dir, "guest.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	v.Folder.Edit(t, "app.yaml", func(string) string {
		return strings.NewReplacer("guest", Visitor, "http://back:", "http://back."+c.Namespace+":").Replace(string(guest))
	})
	v.Folder.Replace(t, "kustomization.yaml", "app.yaml, guest.yaml", "app.yaml")
	v.Folder.Join(t, c.Folder)
	Must(t, v.Folder.IdentitySecret(namespace), "apply", "-f", "-")
	c.visitor, c.ca = v, filepath.Join(t.TempDir(), "ca.yaml")
	v.ca = c.ca
}

// Issue issues at a time, with flags of the chain's alone, and then the second package, if there is one.
func (c *Chain) Issue(t *testing.T, now time.Time, flags ...string) {
	t.Helper()
	c.Meshless(t, now, append([]string{"issue", c.Folder.Dir}, flags...)...)
	if c.visitor != nil {
		c.visitor.Issue(t, now)
	}
}

// Meshless runs a command on the chain's folder as if it were now, with the CA of both packages.
func (c *Chain) Meshless(t *testing.T, now time.Time, args ...string) {
	t.Helper()
	if c.ca != "" {
		args = append(args, "--ca", c.ca)
	}
	c.Folder.Meshless(t, now, args...)
}
