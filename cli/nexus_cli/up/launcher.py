"""Runs in the child before its program does: `launcher.py SUPERVISOR_PID COMMAND…`. Standard library only, imports little.

Asks the kernel to kill this process when the supervisor's thread that started it is gone (PR_SET_PDEATHSIG), so that
not even `kill -9` of `nexus up` leaves services behind, and then becomes the program. A program of its own and not
`preexec_fn`, which runs Python between fork and exec of a process with threads and can deadlock there.
"""

import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    supervisor, command = int(sys.argv[1]), sys.argv[2:]
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != supervisor:
        os._exit(1)  # it died before we asked
    try:
        os.execvp(command[0], command)
    except OSError as error:
        sys.stderr.write(f"cannot run {command[0]!r}: {error.strerror}. Check spec.process.command.\n")
        os._exit(127)


main()
