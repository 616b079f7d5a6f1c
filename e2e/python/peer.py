"""A client or a server of Python's websockets for the end-to-end tests.

peer.py client URL     echoes messages of all sizes, pings, and closes with 4001
peer.py server         echoes until its standard input ends; prints its port
"""
import asyncio
import sys

import websockets


async def client(url):
    async with websockets.connect(url, max_size=4 << 20, subprotocols=["chat.v1"]) as s:
        assert s.subprotocol == "chat.v1", s.subprotocol
        for n in [0, 1, 125, 126, 65535, 65536, 1 << 20]:
            for message in ["é" * (n // 2), bytes(i * 7 % 256 for i in range(n))]:
                await s.send(message)
                assert await s.recv() == message, n
        await s.send(iter(["in ", "frag", "ments"]))
        assert await s.recv() == "in fragments"
        await asyncio.wait_for(await s.ping(b"are you there"), 10)
        deflate = [e.name for e in s.protocol.extensions] if hasattr(s, "protocol") else [e.name for e in s.extensions]
        await s.close(4001, "that was all")
        print("extensions", *deflate)
        print("closed", s.close_code, s.close_reason)


async def echo(s, *path):
    try:
        async for message in s:
            await s.send(message)
    except websockets.ConnectionClosed:
        pass
    print("closed", s.close_code, s.close_reason, flush=True)


async def server():
    async with websockets.serve(echo, "127.0.0.1", 0, max_size=4 << 20, subprotocols=["chat.v1"]) as s:
        print("port", s.sockets[0].getsockname()[1], flush=True)
        await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(client(sys.argv[2]) if sys.argv[1] == "client" else server())
