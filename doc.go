// Package foyer lets WebSockets into a net/http program: it upgrades requests and raw connections, decides who may come
// in, and lets accepted sockets wait in a bounded pool until the program takes them.
//
// # The life of a socket
//
// A request reaches [Handler.ServeHTTP] through any router, over HTTP/1.1, HTTP/2 or HTTP/3, a connection reaches
// [Handler.HandleConnection] from any listener (such as a [Server]'s), or somebody else's hijacked connection reaches
// [Handler.HandleUpgrade]. The request is checked, and [Handler.Origins] and [Handler.Authorize] are asked. Then a place in
// the pool is reserved, before anything is answered, so that no client is let in and turned away after; a handshake that
// finds none waits, in order, as long as the program takes its sockets. The [Socket] waits in the pool; what its client
// sends in the meantime waits in the kernel. The program takes it with [Handler.Accept], [Handler.ForEach] or one of their
// kin, and from then on it is the program's. It ends once: by a close handshake, because it was aborted, because the peer
// left or broke a rule, or with the Handler. [Socket.Err] tells how.
//
//	h := &foyer.Handler{}
//	http.Handle("/ws", h)
//	go http.ListenAndServe("localhost:8080", nil)
//	h.ForEach(ctx, func(ctx context.Context, s *foyer.Socket) {
//		for {
//			t, p, err := s.Read(ctx)
//			if err != nil || s.Write(ctx, t, p) != nil {
//				return
//			}
//		}
//	})
package foyer
