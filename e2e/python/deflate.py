"""A client or a server of Python's Autobahn, with permessage-deflate in every parameter that it can offer.

deflate.py client URL COUNT    echoes COUNT messages for each offer; prints the offer and what was agreed to
deflate.py server              echoes until its standard input ends; prints a port for each configuration
"""
import asyncio
import itertools
import json
import random
import sys

from autobahn.asyncio.websocket import (
    WebSocketClientFactory,
    WebSocketClientProtocol,
    WebSocketServerFactory,
    WebSocketServerProtocol,
)
from autobahn.websocket.compress import (
    PerMessageDeflateOffer,
    PerMessageDeflateOfferAccept,
    PerMessageDeflateResponse,
    PerMessageDeflateResponseAccept,
)

WORDS = "the quick brown fox jumps over a lazy dog while seven green lamps shine on every second street".split()
LIMITS = dict(maxMessagePayloadSize=4 << 20, maxFramePayloadSize=4 << 20)


def message(r):
    """Returns the bytes of a message and whether it is binary."""
    kind = r.random()
    if kind < 0.9:
        return " ".join(r.choice(WORDS) for _ in range(r.randrange(40))).encode(), False
    if kind < 0.99:
        return " ".join(r.choice(WORDS) for _ in range(r.randrange(1000))).encode(), False
    return r.randbytes(r.randrange(70000)), True


class Client(WebSocketClientProtocol):
    got = 0

    def onConnect(self, response):
        self.factory.header = response.headers.get("sec-websocket-extensions", "")

    def onOpen(self):
        self.random, self.sent, self.waiting = random.Random(1), 0, []
        for _ in range(32):
            self.more()

    def more(self):
        if self.sent < self.factory.count:
            p, binary = message(self.random)
            self.waiting.append((p, binary))
            self.sent += 1
            self.sendMessage(p, binary)

    def onMessage(self, payload, binary):
        want = self.waiting.pop(0)
        if want != (payload, binary):
            self.factory.failure = f"message {self.got} differs: {len(payload)} bytes, {len(want[0])} were sent"
            self.sendClose(1000)
            return
        self.got += 1
        if self.got == self.factory.count:
            self.sendClose(1000)
        else:
            self.more()

    def onClose(self, clean, code, reason):
        if self.factory.failure is None and self.got != self.factory.count:
            self.factory.failure = f"closed with {code} {reason} after {self.got}"
        if not self.factory.ended.done():
            self.factory.ended.set_result(None)


async def client(url, count):
    host, port = url.removeprefix("ws://").rstrip("/").split(":")
    loop = asyncio.get_running_loop()
    for no, accept_no, bits, accept_bits in itertools.product([False, True], [False, True], [0, *range(9, 16)], [False, True]):
        offer = PerMessageDeflateOffer(accept_no_context_takeover=accept_no, accept_max_window_bits=accept_bits,
                                       request_no_context_takeover=no, request_max_window_bits=bits)
        f = WebSocketClientFactory(url)
        f.protocol, f.count, f.ended, f.failure, f.header = Client, count, loop.create_future(), None, ""

        def accept(response):
            if isinstance(response, PerMessageDeflateResponse):
                return PerMessageDeflateResponseAccept(response)

        f.setProtocolOptions(perMessageCompressionOffers=[offer], perMessageCompressionAccept=accept, **LIMITS)
        await loop.create_connection(f, host, int(port))
        await asyncio.wait_for(f.ended, 60)
        print(json.dumps(dict(offer=offer.get_extension_string(), answer=f.header, failure=f.failure or "")), flush=True)


class Echo(WebSocketServerProtocol):
    def onMessage(self, payload, binary):
        self.sendMessage(payload, binary)


async def server():
    loop = asyncio.get_running_loop()
    servers = []
    for no, own, bits in itertools.product([False, True], [False, True], [0, 9, 12, 15]):
        f = WebSocketServerFactory()
        f.protocol = Echo

        def accept(offers, no=no, own=own, bits=bits):
            for offer in offers:
                if isinstance(offer, PerMessageDeflateOffer):
                    return PerMessageDeflateOfferAccept(
                        offer, request_no_context_takeover=no and offer.accept_no_context_takeover,
                        request_max_window_bits=bits if offer.accept_max_window_bits else 0,
                        no_context_takeover=True if own else None)

        f.setProtocolOptions(perMessageCompressionAccept=accept, **LIMITS)
        s = await loop.create_server(f, "127.0.0.1", 0)
        servers.append(s)
        print("port", s.sockets[0].getsockname()[1], flush=True)
    print("end", flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


asyncio.run(client(sys.argv[2], int(sys.argv[3])) if sys.argv[1] == "client" else server())
