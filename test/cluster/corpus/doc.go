// Package corpus runs the applications of others, bookinfo and online-boutique as their authors publish them, in a mesh
// on a real Kubernetes. Their manifests are what test/env/corpus.sh downloads. The images, which need
// the Internet and more than two cores, are replaced by test/app, which listens where the manifest says and calls
// whom it names; standin_test.go lists all that is changed. The tests have the build tag e2e, and expect the images of
// `make images` and meshless-test/app to be on the nodes, as test/up.sh puts them there.
package corpus
