package controlplane

import (
	"crypto/tls"
	"net"
	"slices"
	"testing"
	"time"
)

// accepted is what a server takes. Suites are those of TLS 1.2; Groups are those of TLS 1.3.
type accepted struct {
	Versions, Suites, Groups []string
}

// scan tries every version, suite and group on its own, with full handshakes that verify the server.
func scan(t *testing.T, address string, client *tls.Config) (found accepted) {
	t.Helper()
	if c, err := net.DialTimeout("tcp", address, time.Second); err != nil {
		t.Fatalf("nothing to scan: %v", err)
	} else {
		c.Close()
	}
	try := func(change func(*tls.Config)) bool {
		config := client.Clone()
		change(config)
		c, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", address, config)
		if err == nil {
			c.Close()
		}
		return err == nil
	}
	all := slices.Concat(tls.CipherSuites(), tls.InsecureCipherSuites())
	for _, version := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		var suites []uint16 // Go offers the weak ones only when they are named
		for _, suite := range all {
			suites = append(suites, suite.ID)
		}
		if try(func(c *tls.Config) { c.MinVersion, c.MaxVersion, c.CipherSuites = version, version, suites }) {
			found.Versions = append(found.Versions, tls.VersionName(version))
		}
	}
	for _, suite := range all {
		if slices.Contains(suite.SupportedVersions, tls.VersionTLS12) && try(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.CipherSuites = tls.VersionTLS12, tls.VersionTLS12, []uint16{suite.ID}
		}) {
			found.Suites = append(found.Suites, suite.Name)
		}
	}
	for _, group := range []tls.CurveID{tls.X25519MLKEM768, tls.X25519, tls.CurveP256, tls.CurveP384, tls.CurveP521} {
		if try(func(c *tls.Config) { c.MinVersion, c.CurvePreferences = tls.VersionTLS13, []tls.CurveID{group} }) {
			found.Groups = append(found.Groups, group.String())
		}
	}
	slices.Sort(found.Suites)
	return found
}
