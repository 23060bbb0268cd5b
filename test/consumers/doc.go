// Package consumers runs the function as its consumers do, with their real programs: kpt, kustomize and kubectl, the
// image through Docker without network and as the user nobody, and the binary. Flux is the library that it calls, with
// the options that it sets; of Argo CD it is what the repo-server would run. It needs Docker, the image of `make
// images`, kpt, kubectl and git. What is missing is skipped, with CI=true it fails.
package consumers
