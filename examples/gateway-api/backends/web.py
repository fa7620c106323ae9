"""Says which request it got, in plain text; with --certificate FILE (PEM, key and certificate) by HTTPS. Listens on PORT."""

from __future__ import annotations

import argparse
import os
import ssl
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Echo(BaseHTTPRequestHandler):
    """Answers every GET."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer."""
        name = os.environ.get("NEXUS_SERVICE_NAME", "web")
        secure = " by TLS" if isinstance(self.connection, ssl.SSLSocket) else ""
        body = f"{name} got {self.path} for {self.headers['Host']}{secure}\n".encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log what is asked for, but not how it is."""
        if self.path != "/readyz":
            super().log_request(code, size)


class Server(ThreadingHTTPServer):
    """Ends TLS in each connection's own thread: a slow handshake holds up nobody."""

    daemon_threads = True
    context: ssl.SSLContext | None = None

    def finish_request(self, request: object, client_address: object) -> None:
        """Serve one connection."""
        if self.context is not None:
            try:
                request = self.context.wrap_socket(request, server_side=True)  # type: ignore[arg-type]
            except OSError:
                return  # a client that asks no more than whether somebody is there
        super().finish_request(request, client_address)  # type: ignore[arg-type]


def main() -> None:
    """Serve until told to stop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--certificate", help="PEM file with certificate and key")
    certificate = parser.parse_args().certificate
    server = Server(("127.0.0.1", int(os.environ["PORT"])), Echo)
    if certificate:
        server.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.context.load_cert_chain(certificate)
    server.serve_forever()


if __name__ == "__main__":
    main()
