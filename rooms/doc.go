// Package rooms lets sockets talk to each other: a message that is published in a room goes to all its members. Rooms have
// a history, so that a client that comes back gets what it missed; and presence, which says who is there.
//
//	var hub rooms.Hub // the zero value works
//	var h foyer.Handler
//
//	http.Handle("/chat/{room}", &h)
//	go h.ForEach(ctx, func(ctx context.Context, s *foyer.Socket) {
//		hub.Room(s.Request().PathValue("room")).Serve(ctx, s) // join, publish what comes, leave
//	})
//
// # Order
//
// All members of a room get its messages in the same order. There is no order between two rooms, or between a room and
// what a program writes to the socket itself, with one exception: what is written after Room.Publish has returned leaves after
// the message that was published, unless the member has fallen behind the ring. After Member.Publish that is so for the
// member's own socket.
//
// # Slow members
//
// A room keeps its messages once, in a ring, and each member has a place in it. A member that reads slowly takes no
// memory, and delays nobody. When the ring has dropped a message that a member has not had, the member is too slow, and its
// [SlowPolicy] decides.
//
// # Coming back
//
// Every message has a [Position]. A client that was away joins with the position of the last message it has seen, in
// JoinOptions.Since. It gets exactly the messages that it missed, and then those that are published; or it is told that
// this is not possible, with Recovered false. For a client to know positions, [Hub.Encode] must put them into the
// messages; [JSON] does.
//
// # Limits
//
// Everything that a client can make grow has a limit: see the fields of [Hub]. All methods are safe for concurrent use.
package rooms
