package main

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"time"
)

// serve returns when ctx ends, or with the first error of a listener.
func serve(ctx context.Context) error {
	certificate, err := unknownCertificate()
	if err != nil {
		return err
	}
	datagrams, err := net.ListenPacket("udp", ":5353")
	if err != nil {
		return err
	}
	defer datagrams.Close()
	handler := handler()
	plain := &http.Server{Addr: ":8080", Handler: handler, ReadHeaderTimeout: patience}
	defer plain.Close()
	secure := &http.Server{Addr: ":8443", Handler: handler, ReadHeaderTimeout: patience, TLSConfig: certificate}
	defer secure.Close()
	ended := make(chan error, 3)
	go func() { ended <- sendBack(datagrams) }()
	go func() { ended <- plain.ListenAndServe() }()
	go func() { ended <- secure.ListenAndServeTLS("", "") }()
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
		return nil
	}
}

// handler answers / with the pod's name; /headers and /tls say no to who does not ask as the manifest says.
func handler() http.Handler {
	mux := http.NewServeMux()
	answer := func(path string, yes func(*http.Request) bool) {
		mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
			if !yes(r) {
				http.Error(w, path+": no", http.StatusServiceUnavailable)
			}
		})
	}
	answer("/headers", func(r *http.Request) bool { return r.Host == "probe.example" && r.Header.Get("X-Probe") == "yes" })
	answer("/tls", func(r *http.Request) bool { return r.TLS != nil })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		name, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, name)
	})
	return mux
}

// sendBack sends each datagram back with a word in front, so that an echo of somebody else's is not taken for it.
func sendBack(conn net.PacketConn) error {
	buffer := make([]byte, 1500)
	for {
		n, from, err := conn.ReadFrom(buffer)
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(append([]byte("odd: "), buffer[:n]...), from); err != nil {
			return err
		}
	}
}

// unknownCertificate is self-signed and made anew: neither the kubelet nor the proxy verifies what a probe meets.
func unknownCertificate() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}, nil
}
