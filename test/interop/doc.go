// Package interop lets programs that know nothing of meshless talk to its proxies, in both directions: openssl, curl,
// nginx's stream module, ghostunnel and go-spiffe. The certificates are those of `meshless issue`, of every key
// algorithm of the config. The example shop's pods run in the lab of test/kernel; the foreign programs run in a pod
// outside the mesh that holds the files of a member.
//
// TestRecords lets openssl, GnuTLS, a JDK and crypto/tls do what they can to records behind the handshake: rekey, pad,
// fragment, end in any way. It runs on loopback, over both of our record layers, and needs no root.
//
// The rest needs root and Linux; openssl, curl, nginx with its stream module; and ghostunnel as $GHOSTUNNEL, in $KBIN
// (default ~/.cache/kube-bin) or in PATH, which ghostunnel.sh builds. It installs nothing. What is missing skips the
// test, and with CI=true fails it.
package interop
