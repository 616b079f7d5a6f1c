// Package natsrooms makes the rooms of many processes one, over NATS.
//
//	nc, err := nats.Connect("nats://localhost:4222", nats.MaxReconnects(-1))
//	...
//	hub := &rooms.Hub{Backend: natsrooms.JetStream(nc)}
//
// [Core] passes messages on, at most once, in order for each publisher. It stores nothing: a client that was away is told that it has
// not recovered. [JetStream] stores the messages of all rooms in one stream. What was published is acknowledged by the
// stream, all members of a room see one order, and a client that comes back to any process gets exactly what it has missed, or
// is told that it cannot. With both, who is in a room is known in all processes.
//
// # What NATS carries
//
// There is one subscription for each room that is open in a process, and two more. Names of rooms are escaped as by
// url.QueryEscape, and dots as %2E. With the prefix "rooms":
//
//	rooms.log.<room>      what is published in a room: the subjects of the stream
//	rooms.room.<room>.m   the same when the stream has it (RePublish), or at once with Core
//	rooms.room.<room>.t   transient messages
//	rooms.room.<room>.p   joins and leaves
//	rooms.node            each process says every 5 s that it is there
//	rooms.node.<process>  what one process asks of another
//
// Only the stream may publish to rooms.room.*.m when there is one: whoever else does can make members lose messages. docs/cluster.md has
// the permissions.
package natsrooms
