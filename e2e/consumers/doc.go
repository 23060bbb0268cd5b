// Package consumers runs the function as its consumers do, with their real programs: the image under kustomize and under kpt, without network and as the user nobody,
// and the binary under kpt. It needs Docker, the image of `make images`, and kpt. What is missing is skipped, with CI=true it fails.
package consumers
