package wire

import "sync"

// bufferSize is the room of a pooled buffer: enough for a burst of small messages or one large system call, small
// enough that a thousand sockets busy at once cost 16 MiB.
const bufferSize = 16 << 10

var buffers = sync.Pool{New: func() any { return new([bufferSize]byte) }}

func getBuffer() []byte { return buffers.Get().(*[bufferSize]byte)[:] }

// putBuffer gives b back. A buffer that has grown past its first size is left to the garbage collector.
func putBuffer(b []byte) {
	if cap(b) == bufferSize {
		buffers.Put((*[bufferSize]byte)(b[:bufferSize]))
	}
}
