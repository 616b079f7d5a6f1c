package wire

import (
	"context"
	"io"
	"net"
	"sync"
)

// LendSize is the length from which a payload is not copied but written from where it lies.
const LendSize = 16 << 10

// output is the way from gorilla to the network. Bytes wait in order in a queue; whoever finds the network free
// carries them there, and everybody who comes meanwhile leaves theirs and goes.
type output struct {
	conn *Conn

	mu       sync.Mutex
	queue    net.Buffers   // what waits; its last buffer takes small writes
	pooled   [][]byte      // the buffers in queue that go back to the pool
	open     bool          // bytes may leave: the handshake is over
	holds    int           // calls of Hold without Release: more is about to be written
	lent     []byte        // the payload that may be queued without a copy
	busy     bool          // somebody is carrying bytes
	queued   uint64        // bytes taken in since the beginning
	written  uint64        // of these, those the kernel has
	progress chan struct{} // closed when written grows; nil when nobody waits
	err      error
	failed   func(error)
}

// Open lets bytes leave.
func (o *output) Open() {
	o.mu.Lock()
	o.open = true
	o.mu.Unlock()
	o.carry()
}

// Write takes p in. It does not wait: the bytes leave before it returns if the network takes them at once, and
// otherwise as soon as it does.
func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	if o.err != nil {
		o.mu.Unlock()
		return 0, o.err
	}
	o.append(p)
	o.mu.Unlock()
	o.carry()
	return len(p), nil
}

// append puts p at the end of the queue.
func (o *output) append(p []byte) {
	o.queued += uint64(len(p))
	if o.isLent(p) {
		o.queue = append(o.queue, p)
		return
	}
	for len(p) > 0 {
		last := len(o.queue) - 1
		if last < 0 || len(o.pooled) == 0 || !sameBuffer(o.queue[last], o.pooled[len(o.pooled)-1]) ||
			len(o.queue[last]) == cap(o.queue[last]) {
			b := getBuffer()
			o.pooled = append(o.pooled, b)
			o.queue = append(o.queue, b[:0])
			last++
		}
		b := o.queue[last]
		n := copy(b[len(b):cap(b)], p)
		o.queue[last] = b[:len(b)+n]
		p = p[n:]
	}
}

// isLent reports whether p is the end of the lent payload, of which gorilla keeps the beginning for its own buffer.
func (o *output) isLent(p []byte) bool {
	return len(p) > 0 && len(p) <= len(o.lent) && &p[len(p)-1] == &o.lent[len(o.lent)-1]
}

// sameBuffer reports whether b lies at the end of the pooled buffer.
func sameBuffer(b, pooled []byte) bool {
	return cap(b) > 0 && &b[:cap(b)][cap(b)-1] == &pooled[:cap(pooled)][cap(pooled)-1]
}

// Hold keeps bytes back until Release, so that a message of several writes leaves in one system call.
func (o *output) Hold() {
	o.mu.Lock()
	o.holds++
	o.mu.Unlock()
}

// Release ends a Hold.
func (o *output) Release() {
	o.mu.Lock()
	o.holds--
	o.mu.Unlock()
	o.carry()
}

// Lend is Hold, and makes it known that p, a payload about to be written, need not be copied until EndLend. Only one
// goroutine at a time may lend.
func (o *output) Lend(p []byte) {
	o.mu.Lock()
	o.holds++
	o.lent = p
	o.mu.Unlock()
}

// EndLend says that the payload was written, but for Release. It must not be touched until WaitWritten has returned nil
// for the mark, or Break has returned.
func (o *output) EndLend() (mark uint64) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.lent = nil
	return o.queued
}

// carry brings the queue to the network unless somebody does so already. It does not wait: what the network does not
// take at once is left to a goroutine of its own, the only one a slow peer costs.
func (o *output) carry() {
	batch, pooled := o.take()
	if batch == nil {
		return
	}
	if o.conn.raw == nil {
		go o.pump(batch, pooled)
		return
	}
	for round := 0; batch != nil; round++ {
		if round == maxRounds {
			go o.pump(batch, pooled)
			return
		}
		n, err := writeNow(o.conn.raw, batch)
		o.wrote(n)
		if err != nil {
			o.fail(err, true)
			return
		}
		if batch = consume(batch, n); len(batch) > 0 {
			go o.pump(batch, pooled)
			return
		}
		batch, pooled = o.next(pooled)
	}
}

// maxRounds is how many times a goroutine that writes carries other goroutines' bytes along before it is let go.
const maxRounds = 8

// pumpSize is the most that one blocking write is given, so that a peer which takes bytes slowly is seen to take them.
const pumpSize = 64 << 10

// take claims the queue for carrying. It returns nil when there is nothing to carry or somebody else does.
func (o *output) take() (batch net.Buffers, pooled [][]byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.busy || !o.open || o.holds > 0 || len(o.queue) == 0 || o.err != nil {
		return nil, nil
	}
	o.busy = true
	return o.claim()
}

func (o *output) claim() (batch net.Buffers, pooled [][]byte) {
	batch, pooled = o.queue, o.pooled
	o.queue, o.pooled = nil, nil
	return batch, pooled
}

// next gives back the buffers of a batch that is written and claims what has come since. Where that is nothing, or
// somebody holds it back, the carrying ends.
func (o *output) next(done [][]byte) (batch net.Buffers, pooled [][]byte) {
	for _, b := range done {
		putBuffer(b)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if len(o.queue) == 0 || o.holds > 0 || o.err != nil {
		o.busy = false
		o.wake()
		return nil, nil
	}
	return o.claim()
}

// pump writes batch, and what comes meanwhile, and waits for the network where it must.
func (o *output) pump(batch net.Buffers, pooled [][]byte) {
	for batch != nil {
		for len(batch) > 0 {
			p := batch[0][:min(len(batch[0]), pumpSize)]
			n, err := o.conn.net.Write(p)
			o.wrote(n)
			if err == nil && n < len(p) {
				err = io.ErrShortWrite
			}
			if err != nil {
				o.fail(err, true)
				return
			}
			batch = consume(batch, n)
		}
		batch, pooled = o.next(pooled)
	}
}

// consume drops the first n bytes of b.
func consume(b net.Buffers, n int) net.Buffers {
	for n > 0 {
		if n < len(b[0]) {
			b[0] = b[0][n:]
			break
		}
		n -= len(b[0])
		b = b[1:]
	}
	return b
}

// wrote counts n bytes as written.
func (o *output) wrote(n int) {
	o.mu.Lock()
	o.written += uint64(n)
	o.wake()
	o.mu.Unlock()
}

func (o *output) wake() {
	if o.progress != nil {
		close(o.progress)
		o.progress = nil
	}
}

// fail ends the output. With carrying, the caller was carrying bytes and stops.
func (o *output) fail(err error, carrying bool) {
	o.mu.Lock()
	if carrying {
		o.busy = false
	}
	first := o.err == nil
	if first {
		o.err = err
		o.queue, o.pooled = nil, nil
	}
	o.wake()
	failed := o.failed
	o.mu.Unlock()
	if first && carrying && failed != nil {
		failed(err)
	}
}

// BytesToWrite returns how many bytes wait for the kernel to take them.
func (o *output) BytesToWrite() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.err != nil {
		return 0
	}
	return int(o.queued - o.written)
}

// Written returns how many bytes the kernel has taken.
func (o *output) Written() uint64 {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.written
}

// WaitRoom waits until no more than n bytes are waiting.
func (o *output) WaitRoom(ctx context.Context, n int) error {
	return o.await(ctx, func() bool { return o.queued-o.written <= uint64(n) })
}

// WaitWritten waits until the kernel has all bytes up to mark.
func (o *output) WaitWritten(ctx context.Context, mark uint64) error {
	return o.await(ctx, func() bool { return o.written >= mark })
}

// Flush waits until the kernel has all bytes that were taken in before the call.
func (o *output) Flush(ctx context.Context) error {
	o.mu.Lock()
	mark := o.queued
	o.mu.Unlock()
	return o.WaitWritten(ctx, mark)
}

// await waits until ok, asked under the lock, is true.
func (o *output) await(ctx context.Context, ok func() bool) error {
	for {
		o.mu.Lock()
		if ok() || o.err != nil {
			err := o.err
			if ok() {
				err = nil
			}
			o.mu.Unlock()
			return err
		}
		progress := o.onProgress()
		o.mu.Unlock()

		select {
		case <-progress:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// onProgress returns a channel that is closed when something has changed. The caller has the lock.
func (o *output) onProgress() <-chan struct{} {
	if o.progress == nil {
		o.progress = make(chan struct{})
	}
	return o.progress
}

// Break closes the connection and waits until nobody writes from lent memory any more.
func (o *output) Break() {
	o.conn.Close()
	for {
		o.mu.Lock()
		if !o.busy {
			o.mu.Unlock()
			return
		}
		progress := o.onProgress()
		o.mu.Unlock()
		<-progress
	}
}
