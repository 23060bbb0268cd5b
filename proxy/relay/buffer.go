package relay

import (
	"sync"

	"github.com/meshless-dev/meshless/proxy/record"
)

// class is a size of buffers. Most connections are small or idle, so each begins with small ones, and gets larger ones while it fills those.
type class int

const (
	small  class = iota // a request, or an answer
	medium              // the longest record of a peer
	large               // many records for one system call
	classes
)

// sizes tell how much is read into a buffer of a class; what that becomes, sealed or opened, fits into another one of the same class.
var sizes = [classes]int{4 << 10, record.MaxRecord, 128 << 10}

// maxLarge bounds the large buffers of all connections: some make bulk transfers fast, many would fill the container's memory.
const maxLarge = 64

var (
	pools       [classes]sync.Pool
	largeLeases = make(chan struct{}, maxLarge)
)

func init() {
	for c := range pools {
		size := record.Room(sizes[c])
		pools[c].New = func() any { b := make([]byte, size); return &b }
	}
}

// buffer is a lease of memory.
type buffer struct {
	bytes []byte
	class class
	lease *[]byte
}

// take takes a buffer of class c, or of the one below when there are too many large ones.
func take(c class) buffer {
	if c == large {
		select {
		case largeLeases <- struct{}{}:
		default:
			c = medium
		}
	}
	lease := pools[c].Get().(*[]byte)
	return buffer{bytes: *lease, class: c, lease: lease}
}

// put gives the buffer back. It does nothing the second time.
func (b *buffer) put() {
	if b.lease == nil {
		return
	}
	if b.class == large {
		<-largeLeases
	}
	pools[b.class].Put(b.lease)
	*b = buffer{}
}
