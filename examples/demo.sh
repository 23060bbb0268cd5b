#!/usr/bin/env bash
# What `make demo` runs: renders examples/shop with keys of its own in a temporary folder, and shows what came of it. It needs Go and git, no
# root, no Docker and no cluster. KUSTOMIZE is the command that runs kustomize.
set -euo pipefail
top=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d "${TMPDIR:-/tmp}/meshless-demo.XXXXXX")
export PATH="$top/bin:$PATH"
bold=''; plain=''
if [ -t 1 ]; then bold=$(printf '\033[1m'); plain=$(printf '\033[0m'); fi
say() { printf '\n%s%s%s\n' "$bold" "$1" "$plain"; }
run() { printf '$ %s\n' "$*"; "$@"; }

cp -R "$top/examples/shop/." "$work/"
cd "$work"

say "1. Two age identities: one for the cluster, one for the CA. They stay outside of Git."
mkdir "$work.keys"
run meshless keygen -o "$work.keys/cluster.txt"
run meshless keygen -o "$work.keys/ca.txt"
recipient() { sed -n 's/^# public key: //p' "$1"; }
# The first recipient in mtls.yaml is the cluster's, the second the CA's. exec: runs the binary instead of a container.
awk -v cluster="$(recipient "$work.keys/cluster.txt")" -v ca="$(recipient "$work.keys/ca.txt")" '
  /container: \{image:/ { sub(/container:.*/, "exec: {path: meshless}") }
  match($0, /age1[a-z0-9]+/) && length(substr($0, RSTART, RLENGTH)) > 50 {
    $0 = substr($0, 1, RSTART - 1) (n++ ? ca : cluster) substr($0, RSTART + RLENGTH)
  }
  { print }' mtls.yaml > mtls.new
mv mtls.new mtls.yaml

say "2. Certificates, keys sealed: what 'meshless issue' writes is safe to commit."
run meshless issue .

say "3. kustomize renders the shop, with the function as its last transformer."
printf '$ kustomize build --enable-alpha-plugins --enable-exec . > rendered.yaml\n'
(cd "$top" && $KUSTOMIZE build --enable-alpha-plugins --enable-exec "$work") > "$work.yaml"
printf '$ meshless verify - < rendered.yaml\n'
meshless verify - < "$work.yaml"
printf '$ meshless status - < rendered.yaml\n'
meshless status - < "$work.yaml"

say "4. What was added to one workload, the Deployment acme-api:"
# The same build without the function: kustomize skips exec functions without --enable-exec, which is why 'meshless verify' exists.
(cd "$top" && $KUSTOMIZE build --enable-alpha-plugins "$work") > "$work.before.yaml"
one() { # the Deployment acme-api out of a stream, with an awk that knows single characters as separators only
  awk '
    function flush() { if (document ~ /kind: Deployment\n/ && document ~ /\n  name: acme-api\n/) printf "%s", document; document = "" }
    /^---$/ { flush(); next }
    { document = document $0 "\n" }
    END { flush() }' "$1"
}
diff -U 2 <(one "$work.before.yaml") <(one "$work.yaml") | tail -n +4 || true

say "Next"
cat <<END
  less $work.yaml                      the whole output
  meshless issue $work    (again)      nothing is due, nothing changes
  kubectl create namespace acme-shop
  kubectl -n acme-shop create secret generic meshless-identity --from-file=identity.txt=$work.keys/cluster.txt
  kubectl apply -f $work.yaml          with the images of 'make images' on the nodes
  examples/shop/README.md              the tour; docs/ has the rest
END
