// Package foyer implements WebSockets (RFC 6455) for net/http.
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
//
// A [Handler] takes requests from any router, and raw connections. It asks [Handler.Origins] and [Handler.Authorize],
// reserves a place in the pool of accepted sockets, and only then answers 101, so that no client is accepted and then
// dropped. The program takes the [Socket] from the pool with ForEach, Accept, Incoming or NextPending.
package foyer
