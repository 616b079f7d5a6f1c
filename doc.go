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
// A [Handler] takes requests from any router, and raw connections. Before it answers 101 it asks [Handler.Origins] and
// [Handler.Authorize] and reserves a place in a pool, from which the program takes each [Socket] with ForEach, Accept,
// Incoming or NextPending.
package foyer
