"""The process that outlives a test runner to clean up after it: `python -m nexus_testbed.guard <id>`.

Its standard input is a pipe whose other end only the owner of the cluster holds. When the owner ends, however it ends,
the kernel closes the pipe, and the guard removes the cluster. (PDEATHSIG would not do: it fires at the end of the
starting *thread*, and reaches neither grandchildren nor namespaces.)
"""

from __future__ import annotations

import signal
import sys

from nexus_testbed import cleanup, places


def main() -> None:
    cluster_id = places.parse_id(sys.argv[1])
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    while sys.stdin.buffer.read(1024):
        pass
    if cluster_id in cleanup.known_ids():
        cleanup.remove(cluster_id)


if __name__ == "__main__":
    main()
