package foyer

import (
	"sync/atomic"

	"github.com/foyerws/foyer/internal/frame"
)

// A CompressionMode says how permessage-deflate (RFC 7692) is used.
type CompressionMode int

const (
	// No compression.
	CompressionDisabled CompressionMode = iota

	// Each message is compressed on its own; sockets keep no memory for it.
	CompressionNoContextTakeover

	// Short, similar messages get several times smaller. A socket keeps 8 to 36 KiB.
	CompressionContextTakeover
)

// A compression is how a socket compresses.
type compression struct {
	out    frame.Deflater
	in     *frame.Window
	memory int64 // of the budget
}

// A budget is memory that sockets share.
type budget struct {
	limit int64 // 0: none
	used  atomic.Int64
}

// take takes n bytes, and reports false when there are not as many left.
func (b *budget) take(n int64) bool {
	if used := b.used.Add(n); b.limit == 0 || used <= b.limit {
		return true
	}
	b.used.Add(-n)
	return false
}

// negotiate accepts one of a client's offers, and returns how the socket compresses, nil if it does not, and the value of
// Sec-WebSocket-Extensions for the answer. When the budget is spent there is no context takeover.
func (c *config) negotiate(offers []string) (*compression, string) {
	if c.compression == CompressionDisabled || len(offers) == 0 {
		return nil, ""
	}
	agreed, answer, ok := frame.Accept(offers, c.compression == CompressionContextTakeover)
	if !ok {
		return nil, ""
	}
	memory := agreed.Memory(true)
	if memory > 0 && !c.windows.take(memory) {
		agreed, answer, _ = frame.Accept(offers, false)
		memory = 0
	}
	return c.compressionFor(agreed.Server, agreed.Client, memory), answer
}

// compressionFor returns how a socket compresses.
func (c *config) compressionFor(out, in frame.Direction, memory int64) *compression {
	return &compression{frame.NewDeflater(out, c.level), frame.NewWindow(in), memory}
}

// release gives back what z has of the budget.
func (c *config) release(z *compression) {
	if z != nil {
		c.windows.used.Add(-z.memory)
	}
}
