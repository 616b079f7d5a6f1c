package wire

// below is a Conn as its transport knows it.
type below Conn

func (b *below) Readable(onLoop bool) { b.owner.Ready(onLoop) }
func (b *below) Writable()            { (*Conn)(b).unblock() }
func (b *below) TakenOver()           { (*Conn)(b).scatter() }
func (b *below) Flush()               { (*Conn)(b).flushNow() }
func (b *below) HungUp() {
	if b.flags.Load()&isFramed != 0 {
		b.owner.HungUp()
	}
}
