package controlplane

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/program"
)

// node is a control-plane node in miniature: a folder with certificates and data, and ports of its own.
type node struct {
	dir                   string
	client, peer, serving string // addresses of etcd, its peers, and kube-apiserver
	tls                   *tls.Config
	replace               *strings.Replacer
}

func newNode(t *testing.T) *node {
	t.Helper()
	n := &node{dir: t.TempDir(), client: freeAddress(t), peer: freeAddress(t), serving: freeAddress(t)}
	n.certificates(t)
	_, port, err := net.SplitHostPort(n.serving)
	if err != nil {
		t.Fatal(err)
	}
	n.replace = strings.NewReplacer("/etc/kubernetes/pki", n.dir, "/var/lib/etcd", filepath.Join(n.dir, "etcd"),
		"127.0.0.1:2379", n.client, "127.0.0.1:2380", n.peer, "--secure-port=6443", "--secure-port="+port)
	return n
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// certificates writes a CA and one RSA certificate for everything, as kubeadm's are RSA, and keeps it for the scan's
// own side.
func (n *node) certificates(t *testing.T) {
	t.Helper()
	caKey, key := newKey(t), newKey(t)
	ca := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "admin", Organization: []string{"system:masters"}}, NotBefore: ca.NotBefore, NotAfter: ca.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageKeyEncipherment, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	sign := func(c *x509.Certificate, public *rsa.PublicKey) []byte {
		der, err := x509.CreateCertificate(rand.Reader, c, ca, public, caKey)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	caPEM, leafPEM := sign(ca, &caKey.PublicKey), sign(leaf, &key.PublicKey)
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	for name, data := range map[string][]byte{"ca.crt": caPEM, "server.crt": leafPEM, "server.key": keyPEM} {
		if err := os.WriteFile(filepath.Join(n.dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	pair, err := tls.X509KeyPair(leafPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(caPEM)
	n.tls = &tls.Config{RootCAs: roots, Certificates: []tls.Certificate{pair}}
}

func newKey(t *testing.T) *rsa.PrivateKey {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// process is a running program; its output is printed when the test has failed.
type process struct {
	output *program.Output
	exited chan struct{}
}

// start runs a program with the words of a rendered command, without the first, which names it. It is ended with the
// test.
func (n *node) start(t *testing.T, binary string, command []string, env ...string) *process {
	t.Helper()
	words := make([]string, len(command)-1)
	for i, word := range command[1:] {
		words[i] = n.replace.Replace(word)
	}
	p := &process{output: &program.Output{}, exited: make(chan struct{})}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	cmd := exec.CommandContext(ctx, binary, words...)
	cmd.Dir, cmd.Env = n.dir, append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + n.dir}, env...)
	cmd.Stdout, cmd.Stderr = p.output, p.output
	if err := cmd.Start(); err != nil {
		cancel()
		t.Fatal(err)
	}
	go func() {
		_ = cmd.Wait() // how it ended is in the output
		close(p.exited)
	}()
	t.Cleanup(func() {
		cancel()
		<-p.exited
		if t.Failed() {
			t.Logf("%s %s\n%s", binary, strings.Join(words, " "), tail(p.output))
		}
	})
	return p
}

// ready waits until a URL answers 200.
func (n *node) ready(t *testing.T, p *process, url string) {
	t.Helper()
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{TLSClientConfig: n.tls.Clone()}}
	defer client.CloseIdleConnections()
	last := "no answer"
	for deadline := time.Now().Add(2 * time.Minute); time.Now().Before(deadline); time.Sleep(200 * time.Millisecond) {
		select {
		case <-p.exited:
			t.Fatalf("it exited before %s was ready", url)
		default:
		}
		response, err := client.Get(url)
		if err != nil {
			last = err.Error()
			continue
		}
		response.Body.Close()
		if response.StatusCode == http.StatusOK {
			return
		}
		last = strconv.Itoa(response.StatusCode)
	}
	t.Fatalf("%s is not ready: %s", url, last)
}

// mustExit waits until the program gives up and says why.
func (p *process) mustExit(t *testing.T, want string) {
	t.Helper()
	select {
	case <-p.exited:
	case <-time.After(time.Minute):
		t.Fatalf("it runs, and should have refused with %q", want)
	}
	if !strings.Contains(p.output.String(), want) {
		t.Errorf("it ended without saying %q:\n%s", want, tail(p.output))
	}
}

// tail is the end of what a program printed.
func tail(o *program.Output) string {
	text := o.String()
	if cut := len(text) - 4000; cut > 0 {
		return fmt.Sprintf("… %s", text[cut:])
	}
	return text
}
