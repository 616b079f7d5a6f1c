// The echo server of the bench on Bun.
process.on("SIGUSR1", () => Bun.gc(true));

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: 0,
  fetch(request, server) {
    const broadcast = new URL(request.url).pathname === "/broadcast";
    if (!server.upgrade(request, { data: { broadcast } })) return new Response("This is a WebSocket endpoint.", { status: 426 });
  },
  websocket: {
    open(ws) {
      if (ws.data.broadcast) ws.subscribe("all");
    },
    message(ws, message) {
      if (ws.data.broadcast) server.publish("all", message);
      else ws.send(message);
    },
  },
});
console.log(server.port);
