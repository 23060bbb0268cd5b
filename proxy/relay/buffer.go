package relay

import (
	"sync"
	"sync/atomic"

	"github.com/meshless-dev/meshless/proxy/record"
)

// class is a size of buffers. Most connections are small or idle, so each begins with small ones. It gets larger ones
// while it fills those.
type class int

const (
	small  class = iota // a request, or an answer
	medium              // the longest record of a peer
	large               // many records for one system call
	classes
)

// sizes tell how much is read into a buffer of a class. What that becomes, sealed or opened, fits into another buffer
// of the same class.
var sizes = [classes]int{4 << 10, record.MaxRecord, 128 << 10}

// maxLarge bounds the large buffers of all connections. Some make bulk transfers fast; many would fill the container's
// memory.
const maxLarge = 64

var (
	pools      [classes]sync.Pool
	largeInUse atomic.Int32 // buffers, and the rights to siblings
)

func init() {
	for c := range pools {
		size := record.SealedLen(sizes[c])
		pools[c].New = func() any { b := make([]byte, size); return &b }
	}
}

// buffer is memory from a pool. A half reads into one, and opens or seals from it into a sibling of the same class. So
// a large one is counted twice from the beginning: it includes the right to its sibling.
type buffer struct {
	bytes   []byte
	class   class
	memory  *[]byte // nil if it was released
	sibling int32   // 1 while it has the right to a large sibling
}

// acquire gets a buffer of class c, or of the class below when there are too many large ones.
func acquire(c class) buffer {
	if c != large {
		return pooled(c, 0)
	}
	if largeInUse.Add(2) > maxLarge {
		largeInUse.Add(-2)
		return pooled(medium, 0)
	}
	return pooled(large, 1)
}

// largeLeft tells whether there is a large buffer for whoever wants one.
func largeLeft() bool { return largeInUse.Load()+2 <= maxLarge }

func pooled(c class, sibling int32) buffer {
	memory := pools[c].Get().(*[]byte)
	return buffer{bytes: *memory, class: c, memory: memory, sibling: sibling}
}

// acquireSibling gets a buffer of the same class. The right to it passes from b to the sibling. A large b that has none
// left still gets one, above maxLarge: the record that it holds needs the space.
func (b *buffer) acquireSibling() buffer {
	if b.class == large && b.sibling == 0 {
		largeInUse.Add(1)
	}
	b.sibling = 0
	return pooled(b.class, 0)
}

// release gives the buffer back. It does nothing the second time.
func (b *buffer) release() {
	if b.memory == nil {
		return
	}
	if b.class == large {
		largeInUse.Add(-1 - b.sibling)
	}
	pools[b.class].Put(b.memory)
	*b = buffer{}
}

// counted is how much of the buffer counts as held by a session.
func (b *buffer) counted() int {
	if b.class == large {
		return 0
	}
	return len(b.bytes)
}
