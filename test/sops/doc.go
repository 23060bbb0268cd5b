// Package sops holds what is rendered with sealing.format: SOPS against those who open it: the real sops, and the
// decryptor of Flux's kustomize-controller, compiled from its module (testdata/flux). The example shop is issued, built
// by kustomize with its own prefix and namespace, and once more by an overlay that edits all metadata; every Secret is
// then decrypted, and its files are read by the proxy's own code.
//
// It needs sops as $SOPS and flux-decrypt as $FLUX_DECRYPT, or both in $KBIN (default ~/.cache/kube-bin) or in PATH;
// programs.sh builds them. What is missing skips the test, and with CI=true fails it.
package sops
