package pipelines

import "testing"

// TestAttributesHideNothing is an attack: attributes of an earlier commit, which nobody minds, keep the state out of
// what git archive writes, so that verify --base has nothing to compare with.
func TestAttributesHideNothing(t *testing.T) {
	t.Parallel()
	p := newProject(t)
	p.write(t, p.dir, "shop/.gitattributes", "mtls export-ignore\n")
	p.must(t, p.dir, "meshless", "revoke", "shop", "deployment/acme-web")
	p.commit(t, "revoke")
	p.render(t, p.clone(t, "main"))
	p.git(t, p.dir, "revert", "--no-edit", "HEAD")
	p.write(t, p.dir, "shop/.gitattributes", "mtls export-ignore\n")
	p.commit(t, "revert")
	p.refuses(t, p.clone(t, "main"), `is revoked in the base`)
}
