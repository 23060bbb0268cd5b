# The five images of a release. Each holds one static binary and nothing else, but for init-iptables, which adds Debian's iptables:
#
#	docker build --target fn    -t ghcr.io/meshless-dev/fn:v0.1.0 .
#	docker build --target proxy -t ghcr.io/meshless-dev/proxy:v0.1.0 .
#	docker build --target init  -t ghcr.io/meshless-dev/init:v0.1.0 .
#	docker build --target init-iptables -t ghcr.io/meshless-dev/init-iptables:v0.1.0 .
#	docker build --target shop  -t ghcr.io/meshless-dev/shop:v0.1.0 .
#
# It uses nothing that the classic builder lacks. Behind a proxy for Go modules: --build-arg GOPROXY=https://...; with no
# network at all, run `go mod vendor` first: a vendor folder in the context is used instead.
#
# The base images are named by tag, and dependabot.yml keeps the tags current. A digest is worth what it was checked
# against, and nothing here can reach a registry. What depends on them: the toolchain, whose output a second build checks
# (test/reproducible), and Debian below init-iptables. The other images hold no byte of a base.
FROM golang:1.26-bookworm AS build
ARG GOPROXY=https://proxy.golang.org,direct
ENV CGO_ENABLED=0 GOPROXY=$GOPROXY GOTOOLCHAIN=local
WORKDIR /src
# The modules are a layer of their own, fetched again only when go.sum changes. With a vendor folder there is nothing to fetch.
COPY go.mod go.sum vendo[r]/modules.tx[t] ./
RUN test -f modules.txt || go mod download
COPY . .
RUN rm -f modules.txt && mkdir -p /out/etc \
 && go build -trimpath -ldflags "-s -w" -o /out/meshless ./cmd/meshless \
 && go build -trimpath -ldflags "-s -w" -o /out/meshless-proxy ./cmd/meshless-proxy \
 && go build -trimpath -ldflags "-s -w" -o /out/meshless-init ./cmd/meshless-init \
 && go build -trimpath -ldflags "-s -w" -o /out/app ./test/app
# kustomize and kpt run a function with `--user nobody`, which Docker looks up in the image.
RUN printf 'root:x:0:0:root:/:/sbin/nologin\nnobody:x:65534:65534:nobody:/:/sbin/nologin\nmeshless:x:15000:15000:meshless:/:/sbin/nologin\n' > /out/etc/passwd \
 && printf 'root:x:0:\nnobody:x:65534:\nmeshless:x:15000:\n' > /out/etc/group

FROM scratch AS fn
LABEL org.opencontainers.image.title="meshless" \
      org.opencontainers.image.description="KRM function: mutual TLS for Kubernetes workloads without a control plane" \
      org.opencontainers.image.source="https://github.com/meshless-dev/meshless" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/etc/ /etc/
COPY --from=build /out/meshless /meshless
USER nobody
ENTRYPOINT ["/meshless"]

FROM scratch AS proxy
LABEL org.opencontainers.image.title="meshless-proxy" \
      org.opencontainers.image.description="sidecar: encrypts what leaves a pod and decrypts what arrives" \
      org.opencontainers.image.source="https://github.com/meshless-dev/meshless" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/etc/ /etc/
COPY --from=build /out/meshless-proxy /meshless-proxy
# By number, since the kubelet's runAsNonRoot check cannot look up a name.
USER 15000:15000
ENTRYPOINT ["/meshless-proxy"]

FROM scratch AS init
LABEL org.opencontainers.image.title="meshless-init" \
      org.opencontainers.image.description="init container: routes a pod's TCP through its proxy" \
      org.opencontainers.image.source="https://github.com/meshless-dev/meshless" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/etc/ /etc/
COPY --from=build /out/meshless-init /meshless-init
# Kubernetes grants no ambient capabilities: only root gets the NET_ADMIN that the manifest adds.
USER 0:0
ENTRYPOINT ["/meshless-init"]

# For nodes whose kernel lacks a part of nftables (spec.init.backend). It needs no lock file and no writable folder.
FROM debian:bookworm-slim AS init-iptables
LABEL org.opencontainers.image.title="meshless-init-iptables" \
      org.opencontainers.image.description="init container with iptables: routes a pod's TCP through its proxy" \
      org.opencontainers.image.source="https://github.com/meshless-dev/meshless" \
      org.opencontainers.image.licenses="Apache-2.0"
RUN apt-get update -qq \
 && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends iptables \
 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/meshless-init /meshless-init
USER 0:0
ENTRYPOINT ["/meshless-init"]

# test/app under the name that the examples use: one image for examples and tests.
FROM scratch AS shop
LABEL org.opencontainers.image.title="shop" \
      org.opencontainers.image.description="example and test application of meshless" \
      org.opencontainers.image.source="https://github.com/meshless-dev/meshless" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /out/etc/ /etc/
COPY --from=build /out/app /app
USER 65534:65534
ENTRYPOINT ["/app"]
