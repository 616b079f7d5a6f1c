// Package foyer implements WebSockets (RFC 6455) for net/http. A Handler upgrades requests and raw connections, decides
// which clients may connect, and queues accepted sockets until the program takes them.
//
// # The life of a socket
//
// A request reaches [Handler.ServeHTTP] through any router, over HTTP/1.1, HTTP/2 or HTTP/3. [Handler.HandleConnection]
// takes a connection from any listener, such as a [Server]'s. The request is checked, [Handler.Origins] and
// [Handler.Authorize] are asked, and a place in the pool is reserved, all before the response: no client is accepted
// and then dropped. The [Socket] waits in the pool until the program takes it with [Handler.ForEach], Accept, Incoming
// or NextPending; what its client sends stays in the kernel. It ends once: after a close handshake, when it is aborted,
// when the peer disconnects or violates the protocol, or when the Handler is shut down. [Socket.Err] says how.
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
