// Package foyer implements WebSockets (RFC 6455) for net/http. A Handler upgrades requests and raw connections, decides
// which clients may connect, and queues accepted sockets until the program takes them.
//
// # The life of a socket
//
// A request reaches [Handler.ServeHTTP] through any router, over HTTP/1.1, HTTP/2 or HTTP/3. [Handler.HandleConnection]
// takes a connection from any listener, such as a [Server]'s. [Handler.HandleUpgrade] takes a connection that the
// caller has hijacked. The request is checked, and [Handler.Origins] and [Handler.Authorize] are asked. Then foyer
// reserves a place in the pool. Because this happens before the response, no client is accepted and then dropped. If
// the pool is full, the handshake waits in order while the program is taking sockets (see MaxPending). The [Socket]
// waits in the pool; until then, data from the client stays in the kernel. The program takes it with [Handler.Accept],
// Incoming, NextPending or ForEach, and owns it from then on. A socket ends exactly once: after a close handshake, when
// it is aborted, when the peer disconnects or violates the protocol, or when the Handler is shut down. [Socket.Err]
// returns the reason.
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
