"""Serve a chat page to a browser, which reads the events from the gateway itself.

The key stays in this program. The page gets tickets from it: a ticket is good for one stream of one session, once, and
for 30 seconds. A program of yours would ask here who the user is, and which sessions are theirs.
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
    """The files of the page, and three calls that it makes."""

    def do_POST(self) -> None:
        if self.headers["Origin"] != address:  # another site's page, in the same browser
            return self.answer(403, {"message": "only this page may ask"})
        sent = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        try:
            return self.answer(200, self.act(self.path, sent))
        except CmdcError as failure:
            return self.answer(502, {"message": str(failure)})

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

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - so it is called there
        """What is asked for is not of interest here."""


with Client() as client, ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=PAGE)) as server:
    assert client.health().status == "ok"
    address = f"http://127.0.0.1:{server.server_port}"
    print(f"Open {address} in a browser. Ctrl-C ends it.", flush=True)
    with suppress(KeyboardInterrupt):
        server.serve_forever()
