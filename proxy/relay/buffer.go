package relay

import (
	"sync"
	"sync/atomic"

	"github.com/meshless-dev/meshless/proxy/record"
)

// class is a size of buffers. Most connections are small or idle, so each begins with small ones, and gets larger ones
// while it fills those.
type class int

const (
	small  class = iota // a request, or an answer
	medium              // the longest record of a peer
	large               // many records for one system call
	classes
)

// sizes tell how much is read into a buffer of a class; what that becomes, sealed or opened, fits into another one of
// the same class.
var sizes = [classes]int{4 << 10, record.MaxRecord, 128 << 10}

// maxLarge bounds the large buffers of all connections: some make bulk transfers fast, many would fill the container's
// memory.
const maxLarge = 64

var (
	pools       [classes]sync.Pool
	largeLeases atomic.Int32
)

func init() {
	for c := range pools {
		size := record.Room(sizes[c])
		pools[c].New = func() any { b := make([]byte, size); return &b }
	}
}

// buffer is a lease of memory. A large one comes with the right to another one beside it, for what becomes of its
// content: that must be of the same class.
type buffer struct {
	bytes []byte
	class class
	lease *[]byte
	more  int32 // leases of large buffers that go back with this one, beside its own
}

// take takes a buffer of class c, or of the one below when there are too many large ones.
func take(c class) buffer {
	more := int32(0)
	if c == large {
		if largeLeases.Add(2) > maxLarge {
			largeLeases.Add(-2)
			c = medium
		} else {
			more = 1
		}
	}
	return lent(c, more)
}

func lent(c class, more int32) buffer {
	lease := pools[c].Get().(*[]byte)
	return buffer{bytes: *lease, class: c, lease: lease, more: more}
}

// beside takes a buffer of the same class.
func (b *buffer) beside() buffer {
	if b.class == large && b.more == 0 {
		largeLeases.Add(1) // for a moment there is one too many
	}
	b.more = 0
	return lent(b.class, 0)
}

// put gives the buffer back. It does nothing the second time.
func (b *buffer) put() {
	if b.lease == nil {
		return
	}
	if b.class == large {
		largeLeases.Add(-1 - b.more)
	}
	pools[b.class].Put(b.lease)
	*b = buffer{}
}
