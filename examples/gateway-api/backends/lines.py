"""Repeats each line that it gets over TCP, with its own process number in front. Listens on PORT."""

from __future__ import annotations

import os
import socketserver


class Repeat(socketserver.StreamRequestHandler):
    """One connection."""

    def handle(self) -> None:
        """Repeat until the client has said all."""
        for line in self.rfile:
            self.wfile.write(b"%d: %s" % (os.getpid(), line))


class Server(socketserver.ThreadingTCPServer):
    """A thread for each connection."""

    daemon_threads = True
    allow_reuse_address = True


Server(("127.0.0.1", int(os.environ["PORT"])), Repeat).serve_forever()
