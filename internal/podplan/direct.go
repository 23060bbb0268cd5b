package podplan

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// DirectName is the value of api.DirectLabel: what tells the pods of a workload without redirect rules from all others
// of their namespace. It is the kind and the name as the identity has them, joined as in the names of the workload's
// objects; one that is too long for a label ends in a digest. It is "" for a workload with rules.
func (p *Plan) DirectName() string {
	const limit = 63
	parts := strings.Split(p.Workload.SPIFFEID, "/")
	if !p.NoRedirect() || len(parts) < 2 {
		return ""
	}
	name := strings.Join(parts[len(parts)-2:], "-")
	if len(name) <= limit {
		return name
	}
	sum := sha256.Sum256([]byte(name))
	return strings.TrimRight(name[:limit-17], ".-_") + "-" + hex.EncodeToString(sum[:8])
}
