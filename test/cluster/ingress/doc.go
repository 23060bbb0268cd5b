// Package ingress runs examples/ingress: a real Traefik in the mesh, to which people come from outside by TLS and in
// plaintext, and which reaches Strict apps by mutual TLS.
package ingress
