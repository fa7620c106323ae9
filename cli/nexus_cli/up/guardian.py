"""Outlives `nexus up` by a moment: when the pipe on stdin closes, it kills the process groups it was told of.

The launcher's PR_SET_PDEATHSIG ends the services themselves; this ends what they started in turn, and is all there is
where the kernel has no such signal. Lines on stdin: `+PGID` and `-PGID`. Standard library only, imports little.
"""

import os
import signal
import sys


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it goes when its supervisor is gone, never before
    groups = set()
    for line in sys.stdin:
        group = int(line[1:])
        if line[0] == "+":
            groups.add(group)
        else:
            groups.discard(group)
    for group in groups:
        try:
            os.killpg(group, signal.SIGKILL)
        except OSError:
            continue  # gone already


main()
