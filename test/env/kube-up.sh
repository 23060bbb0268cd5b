#!/usr/bin/env bash
# Brings up a real Kubernetes of one node on this machine, as plain processes: etcd, API server, controller manager,
# scheduler, containerd, kubelet, kube-proxy, CoreDNS. kube-build.sh makes the binaries ($KBIN), Debian has the rest,
# which is installed where it is missing. Needs root. State, logs and process ids are in $D (default /tmp/kube); what
# runs already is kept. Then:
#
#	export KUBECONFIG=/tmp/kube/admin.conf
#	docker save IMAGE | ctr -a /tmp/kube/containerd/sock -n k8s.io images import -
#
# PROXY_MODE is kube-proxy's (default nftables), RUNTIME the path of the OCI runtime (runc), SNAPSHOTTER containerd's
# (overlayfs).
set -euo pipefail
KBIN=${KBIN:-$HOME/.cache/kube-bin}
D=${D:-/tmp/kube}
node=node1
address=10.200.0.1 # of the API server, the node and the name server, on lo

install_packages() {
  declare -A package=([etcd]=etcd-server [containerd]=containerd [runc]=runc [conntrack]=conntrack [iptables]=iptables
    [nft]=nftables [openssl]=openssl [curl]=curl)
  local missing=() program
  for program in "${!package[@]}"; do
    command -v "$program" >/dev/null || missing+=("${package[$program]}")
  done
  [ -x /usr/lib/cni/bridge ] || missing+=(containernetworking-plugins)
  if ((${#missing[@]})); then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
  fi
}

# run starts a process in the background that outlives this script, unless it runs already.
run() { # NAME COMMAND...
  local name=$1
  shift
  if [ -f "$name.pid" ] && kill -0 "$(cat "$name.pid")" 2>/dev/null; then return; fi
  setsid "$@" >"log/$name" 2>&1 &
  echo $! >"$name.pid"
}

# await tries a command each second until it succeeds. It gives up when the process ends or the time is over.
await() { # SECONDS NAME COMMAND...
  local seconds=$1 name=$2
  shift 2
  for _ in $(seq "$seconds"); do
    if "$@" >/dev/null 2>&1; then return; fi
    kill -0 "$(cat "$name.pid")" 2>/dev/null || break
    sleep 1
  done
  echo "$name is not ready; the end of $D/log/$name:" >&2
  tail -n 20 "log/$name" >&2
  return 1
}

make_keys() {
  [ -f pki/sa.key ] || openssl genrsa -out pki/sa.key 2048 2>/dev/null
  openssl rsa -in pki/sa.key -pubout -out pki/sa.pub 2>/dev/null
  [ -f pki/tok ] || openssl rand -hex 16 >pki/tok
  echo "$(cat pki/tok),admin,admin,\"system:masters\"" >pki/tokens.csv
  local names="IP:$address,IP:127.0.0.1,IP:10.96.0.1,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc"
  [ -f pki/api.crt ] || openssl req -x509 -newkey rsa:2048 -nodes -keyout pki/api.key -out pki/api.crt -days 30 \
    -subj /CN=kube-apiserver -addext "subjectAltName=$names" 2>/dev/null
  cat >admin.conf <<YAML
apiVersion: v1
kind: Config
clusters: [{name: k, cluster: {server: "https://$address:6443", certificate-authority: $D/pki/api.crt}}]
users: [{name: admin, user: {token: "$(cat pki/tok)"}}]
contexts: [{name: k, context: {cluster: k, user: admin}}]
current-context: k
YAML
}

control_plane() {
  run etcd etcd --data-dir "$D/etcd" --unsafe-no-fsync \
    --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
    --listen-peer-urls http://127.0.0.1:2380
  await 60 etcd curl -fs http://127.0.0.1:2379/health
  run apiserver "$KBIN/kube-apiserver" --etcd-servers=http://127.0.0.1:2379 \
    --secure-port=6443 --bind-address=0.0.0.0 --advertise-address=$address \
    --tls-cert-file=pki/api.crt --tls-private-key-file=pki/api.key \
    --service-account-issuer=https://kubernetes.default.svc \
    --service-account-key-file=pki/sa.pub --service-account-signing-key-file=pki/sa.key \
    --token-auth-file=pki/tokens.csv --authorization-mode=Node,RBAC \
    --service-cluster-ip-range=10.96.0.0/16 --allow-privileged=true
  await 120 apiserver kubectl get --raw /readyz
  run kcm "$KBIN/kube-controller-manager" --kubeconfig=admin.conf --leader-elect=false \
    --service-account-private-key-file=pki/sa.key --root-ca-file=pki/api.crt \
    --cluster-cidr=10.244.0.0/16 --allocate-node-cidrs=true --use-service-account-credentials=false
  run scheduler "$KBIN/kube-scheduler" --kubeconfig=admin.conf --leader-elect=false
}

container_runtime() {
  cat >containerd/config.toml <<TOML
version = 2
root = "$D/containerd/root"
state = "$D/containerd/state"
[grpc]
  address = "$D/containerd/sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "local/pause:1"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "$D/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "${SNAPSHOTTER:-overlayfs}"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        BinaryName = "${RUNTIME:-$(command -v runc)}"
TOML
  cat >cni/10-bridge.conflist <<'JSON'
{"cniVersion": "0.4.0", "name": "br", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
    "ipam": {"type": "host-local", "ranges": [[{"subnet": "10.244.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}
]}
JSON
  run containerd containerd --config "$D/containerd/config.toml"
  await 30 containerd ctr -a "$D/containerd/sock" version
  pause_image
}

# pause_image makes the program that holds a pod's namespaces: it waits for a signal.
pause_image() {
  local ctr=(ctr -a "$D/containerd/sock" -n k8s.io) build
  if "${ctr[@]}" images ls -q | grep -q local/pause:1; then return; fi
  build=$(mktemp -d)
  cat >"$build/main.go" <<'GO'
package main

import (
	"os"
	"os/signal"
	"syscall"
)

func main() {
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	<-stop
}
GO
  printf 'FROM scratch\nCOPY pause /pause\nENTRYPOINT ["/pause"]\n' >"$build/Dockerfile"
  (cd "$build" && CGO_ENABLED=0 go build -o pause main.go)
  docker build -q -t local/pause:1 "$build" >/dev/null
  docker save local/pause:1 | "${ctr[@]}" images import - >/dev/null
  rm -rf "$build"
}

# start_node keeps images on a disk that is almost full: no registry could bring them back.
start_node() {
  : >resolv.conf
  cat >kubelet.yaml <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://$D/containerd/sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
syncFrequency: 1m
configMapAndSecretChangeDetectionStrategy: Watch
resolvConf: $D/resolv.conf
evictionHard: {nodefs.available: "1%", imagefs.available: "1%", nodefs.inodesFree: "1%", memory.available: 100Mi}
imageGCHighThresholdPercent: 100
YAML
  grep -q "$address $node" /etc/hosts || echo "$address $node" >>/etc/hosts
  run kubelet "$KBIN/kubelet" --config=kubelet.yaml --kubeconfig=admin.conf --hostname-override=$node \
    --node-ip=$address --root-dir="$D/kubelet"
  run proxy "$KBIN/kube-proxy" --kubeconfig=admin.conf --hostname-override=$node \
    --proxy-mode="${PROXY_MODE:-nftables}" --cluster-cidr=10.244.0.0/16
}

name_server() {
  cat >Corefile <<COREFILE
.:53 {
  bind $address
  errors
  kubernetes cluster.local in-addr.arpa {
    kubeconfig $D/admin.conf k
    ttl 5
  }
}
COREFILE
  run coredns "$KBIN/coredns" -conf "$D/Corefile"
  kubectl apply -f - >/dev/null <<YAML
apiVersion: v1
kind: Service
metadata: {name: kube-dns, namespace: kube-system}
spec:
  clusterIP: 10.96.0.10
  ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: kube-dns-1, namespace: kube-system, labels: {kubernetes.io/service-name: kube-dns}}
addressType: IPv4
ports: [{name: dns, port: 53, protocol: UDP}, {name: dns-tcp, port: 53, protocol: TCP}]
endpoints: [{addresses: ["$address"], conditions: {ready: true}}]
YAML
}

install_packages
mkdir -p "$D"/{log,pki,cni,containerd}
cd "$D"
export KUBECONFIG=$D/admin.conf
ip addr show dev lo | grep -q $address || ip addr add $address/32 dev lo
sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1 || true
iptables -P FORWARD ACCEPT # a running Docker engine sets DROP
make_keys
control_plane
container_runtime
start_node
name_server
await 90 kubelet kubectl wait --for=condition=Ready "node/$node" --timeout=1s
kubectl get nodes -o wide
