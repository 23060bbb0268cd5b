#!/usr/bin/env bash
# Stops what kube-up.sh started, by process id, the last first. The state in $D stays: kube-up.sh goes on with it.
set -euo pipefail
D=${D:-/tmp/kube}

stop() { # NAME
  local pid
  pid=$(cat "$D/$1.pid" 2>/dev/null) || return 0
  kill "$pid" 2>/dev/null || true
  rm -f "$D/$1.pid"
}

clear=$(dirname "$0")/../cluster/restricted/clear.sh # a kube-router that a killed test has left
[ ! -f "$clear" ] || bash "$clear" || true
for name in coredns proxy kubelet scheduler kcm apiserver etcd; do
  stop $name
done
ctr=(ctr -a "$D/containerd/sock" -n k8s.io)
for task in $("${ctr[@]}" tasks ls -q 2>/dev/null); do
  "${ctr[@]}" tasks kill -s 9 "$task" 2>/dev/null || true
done
sleep 1 # for the shims to tell containerd
stop containerd
