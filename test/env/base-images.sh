#!/usr/bin/env bash
# Gives `docker build` the images that our Dockerfiles start from: debian:bookworm-slim, and golang:VERSION-bookworm of
# this machine's Go (also under its major.minor). Where a registry answers they are pulled. Elsewhere they are made from
# Debian's packages and from this machine's GOROOT and CA bundle, in 40 seconds. Starts dockerd where none runs.
set -euo pipefail
export DOCKER_BUILDKIT=0 # a Docker without buildx has the classic builder only

need() { # PROGRAM PACKAGE
  command -v "$1" >/dev/null && return
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$2" >/dev/null
}

have() { # IMAGE: is here, or a registry has it
  docker image inspect "$1" >/dev/null 2>&1 || timeout 120 docker pull -q "$1" >/dev/null 2>&1
}

if ! docker info >/dev/null 2>&1; then
  need dockerd docker.io
  setsid dockerd >/tmp/dockerd.log 2>&1 &
  for _ in $(seq 30); do
    docker info >/dev/null 2>&1 && break
    sleep 1
  done
  docker info >/dev/null 2>&1 || { tail -n 20 /tmp/dockerd.log >&2; exit 1; }
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
debian=debian:bookworm-slim
version=$(go env GOVERSION)
golang=golang:${version#go}-bookworm

if ! have $debian; then
  need debootstrap debootstrap
  debootstrap --variant=minbase --include=ca-certificates bookworm "$work/root" >"$work/log" ||
    { tail -n 20 "$work/log" >&2; exit 1; }
  cp -L /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/ca-certificates.crt"
  tar -C "$work/root" -c . | docker import - $debian >/dev/null
fi
if ! have "$golang"; then
  mkdir "$work/golang"
  cp -r "$(go env GOROOT)" "$work/golang/go"
  cat >"$work/golang/Dockerfile" <<DOCKERFILE
FROM $debian
COPY go /usr/local/go
ENV PATH=/usr/local/go/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin GOTOOLCHAIN=local
WORKDIR /go
DOCKERFILE
  docker build -q -t "$golang" "$work/golang" >/dev/null
fi
docker tag "$golang" "${golang%.*}-bookworm"
