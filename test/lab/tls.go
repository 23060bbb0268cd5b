package lab

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// ServerHello is what a TLS server chose, as read off the wire.
type ServerHello struct {
	Version uint16 // 0x0304 is TLS 1.3
	Group   uint16 // of the key share; 0x11ec is X25519MLKEM768
}

// ParseServerHello reads the first record of what a server sent (RFC 8446, sections 4.1.3 and 5.1). Anything but a
// ServerHello is an error.
func ParseServerHello(sent []byte) (ServerHello, error) {
	if len(sent) < 5+4+2+32+1 || sent[0] != 22 || sent[5] != 2 {
		return ServerHello{}, fmt.Errorf("stream begins with % x, not with a ServerHello", sent[:min(len(sent), 6)])
	}
	record := sent[5:]
	if n := int(binary.BigEndian.Uint16(sent[3:])); n <= len(record) {
		record = record[:n]
	}
	hello := ServerHello{Version: binary.BigEndian.Uint16(record[4:])}
	rest := record[4+2+32:] // behind type, length, legacy version and random
	session := int(rest[0])
	if len(rest) < 1+session+2+1+2 {
		return ServerHello{}, errors.New("ServerHello is cut off")
	}
	for rest = rest[1+session+2+1+2:]; len(rest) >= 4; {
		kind, size := binary.BigEndian.Uint16(rest), int(binary.BigEndian.Uint16(rest[2:]))
		if len(rest) < 4+size || size < 2 && (kind == 43 || kind == 51) {
			return ServerHello{}, errors.New("ServerHello is cut off")
		}
		switch kind {
		case 43: // supported_versions
			hello.Version = binary.BigEndian.Uint16(rest[4:])
		case 51: // key_share
			hello.Group = binary.BigEndian.Uint16(rest[4:])
		}
		rest = rest[4+size:]
	}
	return hello, nil
}
