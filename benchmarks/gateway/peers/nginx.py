"""nginx: the backend of every proxy, and a plain reverse proxy to compare with."""

from __future__ import annotations

from pathlib import Path

import routes
from processes import Command

from peers.beds import Bed, find_program

REPLY = '{"id":7,"name":"Cup","price":{"amount":"12.50","currency":"EUR"},"stock":42,"tags":["kitchen"],"ok":true}'
MESSAGE = '{"id":7,"name":"Cup","price":{"amount":"12.50","currency":"EUR"},"stock":42}'
BODIES = {"64k": 2**16, "1m": 2**20}
"""Names below `/items/body/` and their sizes in bytes."""
CALLED = f"\0\0\0\0{chr(len(MESSAGE))}{MESSAGE}"
"""Every call's answer, as it is framed. Its servers announce no length, which is why the backend has it searched for inclusions."""
SEEN = "/items/seen"
"""Answers with what the backend saw of a request, so that a run can check that a proxy did its work."""


def backend(ports: tuple[int, ...], calls: tuple[int, ...], marketplace: int, public: Path, work: Path) -> Command:
    """Return nginx answering every path with a small JSON reply. calls: ports where every gRPC call is answered, in clear.

    public: folder that the marketplace's port serves. A call is answered once it is read in full, which only copying it elsewhere makes
    nginx do: what it answers sooner it resets, and nginx as a proxy takes that for a failure of the connection's next call.
    """
    files = work / "files"
    files.mkdir(parents=True, exist_ok=True)
    for name, size in BODIES.items():
        (files / name).write_bytes(bytes(range(256)) * (size // 256))
    listen = " ".join(f"listen 127.0.0.1:{port} backlog=4096;" for port in ports)
    called = " ".join(f"listen 127.0.0.1:{port} http2 backlog=4096;" for port in calls)
    seen = '{"traced":"$http_traceparent","forwarded":"$http_x_forwarded_for"}'
    server = f"""server {{ {listen}
  location / {{ default_type application/json; return 200 '{REPLY}'; }}
  location = {SEEN} {{ default_type application/json; return 200 '{seen}'; }}
  location /items/body/ {{ alias {files}/; default_type application/octet-stream; sendfile on; open_file_cache max=16; etag off; }}
}}
server {{ {called}
  location / {{ mirror /nowhere; log_not_found off; error_page 404 =200 @called; }}
  location = /nowhere {{ internal; return 204; }}
  location @called {{ default_type application/grpc;
    ssi on; ssi_types application/grpc; add_trailer grpc-status 0; return 200 '{CALLED}'; }} }}
server {{ listen 127.0.0.1:{marketplace}; root {public}; default_type application/json; }}"""
    return _nginx(work, server, 1)


def plain(bed: Bed) -> Command:
    """Return nginx as a reverse proxy with keep-alive to the backends."""
    servers = " ".join(f"server 127.0.0.1:{port};" for port in bed.around.backends)
    tls = f"listen 127.0.0.1:{bed.tls_port} ssl http2 backlog=4096;" if bed.tls_port else ""
    called = " ".join(f"server 127.0.0.1:{port};" for port in bed.around.calls)
    calls = f"location /{routes.CALLS_SERVICE}/ {{ grpc_pass grpc://c; }}" if bed.grpc else ""
    return _nginx(
        bed.work,
        f"""upstream b {{ {servers} keepalive 256; keepalive_requests 100000000; }}
upstream c {{ {called} keepalive 256; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{bed.port} backlog=4096; {tls}
  ssl_certificate {bed.around.certificate}; ssl_certificate_key {bed.around.key}; ssl_protocols TLSv1.2 TLSv1.3;
  {calls}
  location / {{ proxy_pass http://b; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host $host;
    proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; proxy_max_temp_file_size 0; }} }}""",
        bed.workers,
    )


def _nginx(work: Path, servers: str, workers: int) -> Command:
    work.mkdir(parents=True, exist_ok=True)
    master = "off" if workers == 1 else "on"
    config = work / "nginx.conf"
    config.write_text(
        f"""daemon off; master_process {master}; worker_processes {workers}; pid {work}/nginx.pid; error_log {work}/error.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 8192; }}
http {{ access_log off; keepalive_requests 100000000; keepalive_timeout 600s; tcp_nopush on;
large_client_header_buffers 8 32k;
client_body_temp_path {work}/body; proxy_temp_path {work}/proxy;
fastcgi_temp_path {work}/f; uwsgi_temp_path {work}/u; scgi_temp_path {work}/s;
{servers} }}
"""
    )
    return Command((find_program("nginx"), "-p", str(work), "-c", str(config), "-e", str(work / "error.log")))
