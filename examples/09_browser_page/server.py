"""Serve a chat page whose browser reads events directly from the gateway.

The API key stays in this program; the page gets tickets from it. A ticket opens one stream of one session, once, within
30 seconds. A real application would authenticate its user here and check that the session belongs to that user.
"""

import json
from contextlib import suppress
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cmdc_client import Client, CmdcError

PAGE = Path(__file__).parent / "page"


class Handler(SimpleHTTPRequestHandler):
    """Serves the files of the page and its three API calls."""

    def do_POST(self) -> None:
        if self.headers["Origin"] != address:  # a page of another site, in the same browser
            return self.answer(403, {"message": "requests from other origins are not allowed"})
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            return self.answer(200, self.act(self.path, sent))
        except CmdcError as error:
            return self.answer(502, {"message": str(error)})

    def act(self, path: str, sent: dict[str, Any]) -> dict[str, Any]:
        if path == "/session":
            return {"gateway": client.base_url, "sessionId": client.sessions.create(model="scripted:demo").id}
        session = client.sessions.get(sent["sessionId"])
        if path == "/prompt":
            return {"requestId": session.prompt(sent["text"]).request_id}
        return {"ticket": session.ticket("read").ticket}

    def answer(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - named by the base class
        """Do not log requests."""


with Client() as client, ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=PAGE)) as server:
    assert client.health().status == "ok"
    address = f"http://127.0.0.1:{server.server_port}"
    print(f"Open {address} in a browser. Press Ctrl-C to stop.", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()
