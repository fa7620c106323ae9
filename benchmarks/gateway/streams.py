"""Bytes through a TCP route per second of the proxy's CPU, beside HAProxy: `python benchmarks/gateway/streams.py [GB]`.

One process each, two connections, pieces of 64 KB, one direction. CPU and not wall time: the machine may have other work. HAProxy runs
as it comes, with buffers of the pieces' size, and with `option splice-auto`; without it installed there is only our own figure.
Measured on 2 busy cores, GB per CPU second: Nexus (uvloop) 1.9 to 2.5; HAProxy 2.6 1.4 to 1.6, with 64 KB buffers 1.6 to 2.1, splicing
2.1 to 2.5.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

PIECE = 65536
CONNECTIONS = 2
HAPROXY = """global
 nbthread 1
 tune.bufsize {buffer}
defaults
 mode tcp
 timeout connect 2s
 timeout client 30s
 timeout server 30s
listen bench
 bind 127.0.0.1:{port}
 server sink 127.0.0.1:{sink}
{more}
"""


async def serve(sink: int) -> None:
    """Be the proxy under test."""
    from nexus_gateway.edge.streams.testing import Lab, route, upstream

    lab = Lab()
    one = upstream("sink", sink)
    lab.swap([route("sink", one)], [one])
    print(await lab.listen(), flush=True)
    await asyncio.Event().wait()


def start_sink() -> int:
    """Read everything, then say so; return the port."""
    server = socket.create_server(("127.0.0.1", 0))

    def drain(connection: socket.socket) -> None:
        buffer = bytearray(1 << 18)
        with connection:
            while connection.recv_into(buffer):
                pass
            connection.sendall(b"k")

    def accept() -> None:
        while True:
            threading.Thread(target=drain, args=(server.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    return int(server.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(name: str, process: subprocess.Popen[str], port: int, size: int) -> None:
    """Send `size` bytes through a proxy, and print what that took."""
    pieces = size // PIECE // CONNECTIONS

    def send() -> None:
        data = bytes(PIECE)
        with socket.create_connection(("127.0.0.1", port)) as connection:
            for _ in range(pieces):
                connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            assert connection.recv(1) == b"k"

    senders = [threading.Thread(target=send) for _ in range(CONNECTIONS)]
    before = cpu_s(process.pid)
    for each in senders:
        each.start()
    for each in senders:
        each.join()
    used_s, gigabytes = cpu_s(process.pid) - before, pieces * CONNECTIONS * PIECE / 1e9
    print(f"{name:24} {gigabytes:.2f} GB, {used_s:.2f} s of CPU: {gigabytes / used_s:.2f} GB per CPU second")


def main() -> None:
    size = int(float(sys.argv[1]) * 1e9) if len(sys.argv) > 1 else 2_500_000_000
    sink = start_sink()
    ours = subprocess.Popen([sys.executable, __file__, "--serve", str(sink)], stdout=subprocess.PIPE, text=True)
    try:
        assert ours.stdout is not None
        measure("nexus", ours, int(ours.stdout.readline()), size)
    finally:
        ours.kill()
        ours.wait()
    haproxy = shutil.which("haproxy", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    for name, buffer, more in (
        ("haproxy", 16384, ""),
        ("haproxy, 64 KB buffers", PIECE, ""),
        ("haproxy, splicing", 16384, " option splice-auto"),
    ):
        if haproxy is None:
            continue
        with tempfile.NamedTemporaryFile("w") as config, socket.create_server(("127.0.0.1", 0)) as probe:
            port = int(probe.getsockname()[1])
            probe.close()
            config.write(HAPROXY.format(port=port, sink=sink, more=more, buffer=buffer))
            config.flush()
            peer = subprocess.Popen([haproxy, "-f", config.name, "-db"], stderr=subprocess.DEVNULL, text=True)
            try:
                time.sleep(0.5)
                measure(name, peer, port, size)
            finally:
                peer.kill()
                peer.wait()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        import uvloop

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve(int(sys.argv[2])))
    main()
