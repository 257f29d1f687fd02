"""The lower bound for a delivery: one system call per reader and event, and nothing else.

The server parses just enough of the benchmark's requests, serves one session, and never waits for a slow reader. No
server that calls `send` for each delivery can be cheaper.
"""

from __future__ import annotations

import json
import re
import socket
import time
from collections.abc import Iterator

_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_LENGTH = re.compile(rb"\r\nContent-Length: ([0-9]+)\r\n")


def _request(connection: socket.socket) -> tuple[bytes, bytes]:
    """Receive a request; return its first line and its body."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        raw += _received(connection)
    head, _, body = raw.partition(b"\r\n\r\n")
    length = _LENGTH.search(head + b"\r\n")
    while length and len(body) < int(length[1]):
        body += _received(connection)
    return head.split(b"\r\n")[0], body


def _received(connection: socket.socket) -> bytes:
    data = connection.recv(1 << 16)
    assert data, "the client closed the connection"
    return data


def _chunk(event: str, **data: object) -> bytes:
    frame = f"event: {event}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n".encode()
    return b"%x\r\n%b\r\n" % (len(frame), frame)


def _run(reply: dict[str, list[str]], pace: float) -> Iterator[bytes]:
    """Yield the HTTP chunks of a run, `pace` seconds apart."""
    request_id = "0123456789abcdef"
    for name in ("prompt_received", "agent_start", "message_start"):
        yield _chunk(name, requestId=request_id)
    for delta in reply["text"]:
        time.sleep(pace)
        yield _chunk("message_delta", delta=delta, requestId=request_id)
    yield _chunk("agent_end", lastMessage={"role": "assistant", "content": "".join(reply["text"])})
    yield b"0\r\n\r\n"


def _serve(listening: socket.socket) -> None:
    readers: list[socket.socket] = []
    while True:
        connection, _ = listening.accept()
        line, body = _request(connection)
        if line.startswith(b"GET"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.sendall(_HEAD)
            readers.append(connection)
            continue
        connection.sendall(b"HTTP/1.1 202 Accepted\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}")
        connection.close()
        reply = json.loads(json.loads(body)["text"].split("```script\n")[1].split("\n```", maxsplit=1)[0])["replies"][0]
        for chunk in _run(reply, reply["delayMs"] / 1000):
            for reader in readers:
                reader.send(chunk)
        for reader in readers:
            reader.close()
        readers.clear()


if __name__ == "__main__":
    server = socket.create_server(("127.0.0.1", 0), backlog=2048)
    print(f"listening on http://127.0.0.1:{server.getsockname()[1]}", flush=True)
    _serve(server)
