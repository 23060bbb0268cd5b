//go:build e2e && linux

package ingress

import (
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/meshless-dev/meshless/test/cluster/stage"
	"github.com/meshless-dev/meshless/test/example"
	"github.com/meshless-dev/meshless/test/program"
)

const (
	namespace = "ingress"
	// What people send: the first over TLS, the second in plaintext, as far as the controller.
	sealedMarker = "an-order-from-outside-over-tls"
	openMarker   = "an-order-from-outside-in-plaintext"
)

// TestTraefik deploys the example once; the steps come from outside.
func TestTraefik(t *testing.T) {
	program.Find(t, "traefik", "test/cluster/ingress/traefik.sh builds it, and test/up.sh makes an image of it")
	stage.NewNamespace(t, namespace)
	t.Cleanup(func() {
		for _, kind := range []string{"clusterrole", "clusterrolebinding", "ingressclass"} {
			if _, err := stage.Kubectl("", "delete", kind, "traefik", "--ignore-not-found"); err != nil {
				t.Error(err)
			}
		}
	})
	wire := stage.WatchWire(t, namespace, sealedMarker, openMarker)
	e := example.Copy(t, "../../../examples/ingress")
	e.Replace(t, "traefik.yaml", "image: traefik:v3.6.12", "image: meshless-test/traefik:latest\n          imagePullPolicy: Never")
	e.Replace(t, "app.yaml", "image: ghcr.io/meshless-dev/shop:v0.1.0", "image: "+example.AppImage+"\n          imagePullPolicy: IfNotPresent")
	stage.DeployPackage(t, namespace, e)
	stage.Rollout(t, namespace, "deployment/traefik", "deployment/web")
	t.Run("people get in, by TLS and in plaintext", testPeople)
	t.Run("the app is reached by the controller alone", testAlone)
	traefik := pods(t, "traefik")[0]
	wire.WantSecret(t, fmt.Sprintf("to %s:8000", traefik))
}

// pods are the addresses of an app's pods.
func pods(t *testing.T, app string) (ips []netip.Addr) {
	t.Helper()
	for _, pod := range stage.Pods(t, namespace, "app="+app) {
		ips = append(ips, netip.MustParseAddr(pod.Status.PodIP))
	}
	return ips
}

// node is the address at which a port of the Service is reached from outside.
func node(t *testing.T, port string) string {
	t.Helper()
	number := stage.Must(t, "", "-n", namespace, "get", "service", "traefik", "-o", `jsonpath={.spec.ports[?(@.name=="`+port+`")].nodePort}`)
	host := stage.Must(t, "", "get", "nodes", "-o", `jsonpath={.items[0].status.addresses[?(@.type=="InternalIP")].address}`)
	return net.JoinHostPort(host, number)
}

// post is one request of people, on a connection of its own.
func post(url, marker string) (page stage.Answer, err error) {
	client := &http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{
		DisableKeepAlives: true,
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true, ServerName: "shop.example"}, // Traefik's own certificate
	}}
	request, err := http.NewRequest(http.MethodPost, url, strings.NewReader(marker))
	if err != nil {
		return page, err
	}
	request.Host = "shop.example"
	response, err := client.Do(request)
	if err != nil {
		return page, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", response.Status, body)
	}
	if err == nil {
		err = json.Unmarshal(body, &page.Page)
	}
	return page, err
}

func testPeople(t *testing.T) {
	for _, way := range []struct{ url, marker string }{
		{"https://" + node(t, "websecure") + "/", sealedMarker},
		{"http://" + node(t, "web") + "/", openMarker},
	} {
		seen := map[string]bool{}
		stage.Poll(t, 30*time.Second, func() error { // until Traefik has read the Ingress, and who is behind it
			page, err := post(way.url, way.marker)
			if seen[page.Host] = true; err == nil && !page.ByProxy() {
				t.Errorf("%s: %+v did not come by the app's proxy", way.url, page.Page)
			}
			if delete(seen, ""); err == nil && len(seen) < 2 {
				err = fmt.Errorf("answered by %v, want both pods", seen)
			}
			return err
		})
		for range 20 {
			if _, err := post(way.url, way.marker); err != nil {
				t.Errorf("%s: %v", way.url, err)
			}
		}
	}
	for _, pod := range stage.Pods(t, namespace, "app=traefik") {
		if stage.OpenedBy(t, namespace, pod.Name, "outbound", "mutual_tls") == 0 {
			t.Errorf("%s opened no connection by mutual TLS", pod.Name)
		}
	}
}

// testAlone: the app took nothing but mutual TLS, and refuses whoever comes past the controller.
func testAlone(t *testing.T) {
	for _, pod := range stage.Pods(t, namespace, "app=web") {
		if stage.OpenedBy(t, namespace, pod.Name, "inbound", "mutual_tls") == 0 {
			t.Errorf("%s took no connection by mutual TLS", pod.Name)
		}
		if n := stage.OpenedBy(t, namespace, pod.Name, "inbound", "plaintext"); n > 0 {
			t.Errorf("%s took %v connections in the clear", pod.Name, n)
		}
	}
	for _, ip := range pods(t, "web") {
		if !stage.Here(t, ip) || os.Geteuid() != 0 {
			return
		}
		for _, scheme := range []string{"http", "https"} {
			if page, err := post(scheme+"://"+netip.AddrPortFrom(ip, 8080).String()+"/", "past the controller"); err == nil {
				t.Errorf("past the controller, by %s: %+v", scheme, page.Page)
			}
		}
	}
}
