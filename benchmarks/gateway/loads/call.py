"""One gRPC call by gRPC's own client, so that a proxy is not measured at calls that no client would take for good.

`call.py PORT HOST PATH CERTIFICATE` prints the answer's message; an error says which status came instead.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import grpc  # type: ignore[import-untyped]

TIMEOUT_S = 10.0


def ask(port: int, host: str, path: str, certificate: Path) -> bytes:
    """Return the message that a unary call over TLS is answered with. Raises grpc.RpcError."""
    credentials = grpc.ssl_channel_credentials(certificate.read_bytes())
    # Another authority would not be that of the calls' route.
    named = (("grpc.ssl_target_name_override", host), ("grpc.default_authority", host))
    with grpc.secure_channel(f"127.0.0.1:{port}", credentials, named) as channel:
        answer: bytes = channel.unary_unary(path)(b"item: 7.", timeout=TIMEOUT_S)
        return answer


def run(port: int, host: str, path: str, certificate: Path) -> tuple[bytes, str]:
    """Ask in a process of its own: gRPC's threads do not bear that the harness starts programs. Returns the message and what failed."""
    argv = [sys.executable, __file__, str(port), host, path, str(certificate)]
    done = subprocess.run(argv, capture_output=True, timeout=TIMEOUT_S + 20, check=False)
    return done.stdout, done.stderr.decode(errors="replace")[-800:] if done.returncode else ""


if __name__ == "__main__":
    sys.stdout.buffer.write(ask(int(sys.argv[1]), sys.argv[2], sys.argv[3], Path(sys.argv[4])))
