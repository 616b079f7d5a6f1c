package wire

import "sync"

// bufferSize is the room of a pooled buffer: enough for a burst of small messages or one large system call, small
// enough that a thousand sockets busy at once cost 16 MiB.
const bufferSize = 16<<10 - 128

// A buffer holds bytes on their way in or out. It exists only while there are some.
type buffer struct {
	data  []byte // store, or memory that came with the connection
	r, w  int    // what is in it is data[r:w]
	store [bufferSize]byte
}

var buffers = sync.Pool{New: func() any {
	b := new(buffer)
	b.data = b.store[:]
	return b
}}

func getBuffer() *buffer { return buffers.Get().(*buffer) }

// putBuffer gives b back. Nothing may point into it any more.
func putBuffer(b *buffer) {
	if len(b.data) == bufferSize {
		b.r, b.w = 0, 0
		buffers.Put(b)
	}
}

// smallSize is the size of the buffers that connections of the net package wait with.
const smallSize = 512

var smallBuffers = sync.Pool{New: func() any { return new([smallSize]byte) }}

// holding returns a buffer that holds a copy of p.
func holding(p []byte) *buffer {
	b := getBuffer()
	if len(p) > len(b.data) {
		b = &buffer{data: make([]byte, len(p))}
	}
	b.w = copy(b.data, p)
	return b
}

func (b *buffer) len() int      { return b.w - b.r }
func (b *buffer) bytes() []byte { return b.data[b.r:b.w] }
