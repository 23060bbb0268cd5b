package record

import (
	"bytes"
	"encoding/hex"
	"errors"
)

// Secrets takes the traffic secrets of one handshake from crypto/tls, which hands them out in one way alone: set it as
// the KeyLogWriter of a configuration that serves this one handshake. It keeps the two that protect application data in
// memory, until New takes them. The zero value is ready for use.
type Secrets struct {
	client, server []byte
}

// Labels of the lines that matter (RFC 9850, section 2.2, the SSLKEYLOGFILE format).
var (
	clientLabel = []byte("CLIENT_TRAFFIC_SECRET_0")
	serverLabel = []byte("SERVER_TRAFFIC_SECRET_0")
)

var errKeyLog = errors.New("crypto/tls handed out a traffic secret in a form that is not known")

// Write implements io.Writer. It takes one line of three words: label, client random, secret.
func (s *Secrets) Write(line []byte) (int, error) {
	words := bytes.Fields(line)
	if len(words) != 3 {
		return 0, errKeyLog
	}
	var to *[]byte
	switch {
	case bytes.Equal(words[0], clientLabel):
		to = &s.client
	case bytes.Equal(words[0], serverLabel):
		to = &s.server
	default:
		return len(line), nil
	}
	secret := make([]byte, hex.DecodedLen(len(words[2])))
	if _, err := hex.Decode(secret, words[2]); err != nil {
		return 0, errKeyLog
	}
	*to = secret
	return len(line), nil
}
