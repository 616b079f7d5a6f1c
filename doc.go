// Package foyer implements WebSockets (RFC 6455) for net/http. A Handler upgrades requests and raw connections, decides
// which clients may connect, and queues accepted sockets until the program takes them.
//
// # The life of a socket
//
// A request reaches [Handler.ServeHTTP] through any router, over HTTP/1.1, HTTP/2 or HTTP/3. [Handler.HandleConnection]
// takes a connection from any listener, such as a [Server]'s. Before responding, foyer checks the request, calls
// [Handler.Origins] and [Handler.Authorize], and reserves a place in the pool, which is the queue of accepted sockets.
// So no client is accepted and then dropped. The [Socket] waits in the pool until the program takes it with
// [Handler.ForEach], Accept, Incoming or NextPending. Until then, what its client sends stays in the kernel. The socket
// ends after a close handshake, when it is aborted, when the peer disconnects or violates the protocol, or when the
// Handler is shut down. [Socket.Err] says how.
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
