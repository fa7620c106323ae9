"""The little web server that the tests of the bed run in pods. Standard library only, started as a script.

`GET /` answers the pod's name; `/env/NAME`, `/file/PATH` and `/resolve/HOST` show what the container sees; `/fail` and
`/mend` switch `/healthz` between 500 and 200; `/write/PATH` writes a file.
"""

from __future__ import annotations

import http.server
import os
import signal
import socket
import sys
import time
from pathlib import Path

healthy = True


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        global healthy
        print("GET", self.path, flush=True)
        status, text = 200, os.environ.get("POD_NAME", "?")
        kind, _, rest = self.path.removeprefix("/").partition("/")
        try:
            match kind:
                case "env":
                    text = os.environ[rest]
                case "file":
                    text = Path("/", rest).read_text()
                case "resolve":
                    text = socket.gethostbyname(rest)
                case "healthz":
                    status = 200 if healthy else 500
                case "fail" | "mend":
                    healthy = kind == "mend"
                case "write":
                    Path("/", rest).write_text("written")
        except (KeyError, OSError) as err:
            status, text = 404, repr(err)
        body = text.encode()
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


def main() -> None:
    def stop(*_: object) -> None:
        print("got SIGTERM", flush=True)
        time.sleep(float(os.environ.get("STOP_S", "0")))
        sys.exit(0)

    signal.signal(signal.SIGTERM, stop)
    time.sleep(float(os.environ.get("START_S", "0")))
    print("started", flush=True)
    server = http.server.ThreadingHTTPServer(("", int(sys.argv[1]) if len(sys.argv) > 1 else 8000), Handler)
    server.serve_forever()


if __name__ == "__main__":
    main()
