// Package foyer lets WebSockets into a net/http program: it upgrades requests and raw connections, decides who may come
// in, and lets accepted sockets wait in a bounded pool until the program takes them. gorilla/websocket builds and parses
// the frames.
//
// # The life of a socket
//
// A request reaches [Handler.ServeHTTP] through any router, over HTTP/1.1, HTTP/2 or HTTP/3, a connection reaches
// [Handler.HandleConnection] from any listener (such as a [Server]'s), or somebody else's hijacked connection reaches
// [Handler.HandleUpgrade]. A place in the pool is reserved before anything is answered, so that nobody is let in and turned
// away after. Then the request is checked, [Handler.Origins] and [Handler.Authorize] are asked, and the answer is sent. The
// [Socket] waits in the pool; what its client sends meanwhile waits in the kernel. The program takes it with
// [Handler.Accept], [Handler.ForEach] or one of their kin, and from then on it is the program's. It ends once: by a close
// handshake, because it was aborted, because the peer vanished or broke a rule, or with the Handler. [Socket.Err] tells how.
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
