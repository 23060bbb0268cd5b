#!/usr/bin/env bash
# Ends the room's kube-router, by its process id, and takes its chains and sets of addresses out of the node.
set -euo pipefail
D=${D:-/tmp/kube}
pid=$(cat "$D/kube-router.pid" 2>/dev/null || true)
if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null)" = kube-router ]; then
  kill "$pid"
  for _ in $(seq 100); do
    kill -0 "$pid" 2>/dev/null || break
    sleep 0.1
  done
fi
rm -f "$D/kube-router.pid"

# What leads to the chains goes first, in one transaction with them; rules of others stay as they are.
rules=$(iptables-save -t filter)
chains=$(sed -nE 's/^:(KUBE-(ROUTER|POD-FW|NWPLCY)-[A-Z0-9-]*) .*/\1/p' <<<"$rules")
if [ -n "$chains" ]; then
  {
    echo '*filter'
    sed -nE 's/^-A ((INPUT|FORWARD|OUTPUT) .*-j KUBE-ROUTER-)/-D \1/p' <<<"$rules"
    sed 's/^/-F /' <<<"$chains"
    sed 's/^/-X /' <<<"$chains"
    echo COMMIT
  } | iptables-restore --noflush
fi
command -v ipset >/dev/null || exit 0
# The kernel lets go of a set a moment after the last rule that names it.
for set in $(ipset list -n | grep -E '^(TMP-)?(KUBE-(SRC|DST)-|TMP-)' || true); do
  for _ in $(seq 50); do
    ipset destroy "$set" 2>/dev/null && break
    sleep 0.1
  done
done
left=$(iptables-save -t filter | grep -cE 'KUBE-(ROUTER|POD-FW|NWPLCY)-' || true)
sets=$(ipset list -n | grep -cE '^(TMP-)?KUBE-(SRC|DST)-' || true)
[ "$left" = 0 ] && [ "$sets" = 0 ] || { echo "kube-router left $left lines of rules and $sets sets" >&2; exit 1; }
