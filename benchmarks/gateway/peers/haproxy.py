"""HAProxy as a plain reverse proxy."""

from __future__ import annotations

from processes import Command

from peers.beds import Bed, find_program


def plain(bed: Bed) -> Command:
    """Return HAProxy with keep-alive to the backends."""
    bed.work.mkdir(parents=True, exist_ok=True)
    config = bed.work / "haproxy.cfg"
    lines = [
        "global",
        f"  nbthread {bed.workers}",
        "  maxconn 8000",
        "defaults",
        "  mode http",
        "  timeout connect 2s",
        "  timeout client 600s",
        "  timeout http-keep-alive 600s",
        "  timeout server 15s",
        "  option forwardfor",
        "  http-reuse always",
        "frontend f",
        f"  bind 127.0.0.1:{bed.port}",
    ]
    if bed.tls_port:
        pem = bed.work / "both.pem"
        pem.write_bytes(bed.around.certificate.read_bytes() + bed.around.key.read_bytes())
        pem.chmod(0o600)
        lines.append(f"  bind 127.0.0.1:{bed.tls_port} ssl crt {pem} alpn http/1.1")
    lines += ["  default_backend b", "backend b", "  balance leastconn"]
    lines += [f"  server s{number} 127.0.0.1:{port}" for number, port in enumerate(bed.around.backends)]
    config.write_text("\n".join([*lines, ""]))
    return Command((find_program("haproxy"), "-db", "-q", "-f", str(config)))
