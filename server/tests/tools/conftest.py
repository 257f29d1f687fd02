import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from cmdc_gateway.tools.workspace import Workspace

Respond = Callable[[asyncio.StreamWriter], Awaitable[None]]


class Endpoint:
    """A callback tool on loopback that records its requests, and sends the bytes that a test prepares."""

    def __init__(self) -> None:
        self.requests: list[tuple[dict[str, str], bytes]] = []
        self.request_lines: list[str] = []
        self.responses: list[Respond] = []
        self.port = 0
        self.disconnected = asyncio.Event()

    def url(self, path: str = "/tool") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    def respond_with(self, body: bytes, *, status: str = "200 OK", headers: str = "") -> None:
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode()

        async def respond(writer: asyncio.StreamWriter) -> None:
            writer.write(head + body)
            await writer.drain()

        self.responses.append(respond)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            line, *fields = head.strip().split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
            body = await reader.readexactly(int(headers.get("content-length", "0")))
            self.request_lines.append(line)
            self.requests.append((headers, body))
            await self.responses.pop(0)(writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self.disconnected.set()


@pytest.fixture
async def endpoint() -> AsyncIterator[Endpoint]:
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    endpoint.port = server.sockets[0].getsockname()[1]
    yield endpoint
    server.close()
    await server.wait_closed()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a workspace, next to a folder with a secret."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "secret.txt").write_text("secret")
    root = tmp_path / "root"
    (root / "docs").mkdir(parents=True)
    (root / "docs" / "a.txt").write_text("one\ntwo\nthree\n")
    (root / "notes.md").write_text("hello\n")
    return root


@pytest.fixture
def workspace(root: Path) -> Workspace:
    return Workspace(root)
