"""How many files the process may open: each connection, of a client or to an upstream, is one.

Systems give a low soft limit, often 1024, for the sake of programs that use select(2), and a high hard one for those that do not.
A gateway does not. For a process that is a gateway alone; not done on import. Its workers inherit the limit.
"""

from __future__ import annotations

import logging
import resource

log = logging.getLogger("nexus.gateway.files")
FEW = 4096
"""A limit below this is worth a warning: some two thousand requests at once would meet it."""


def settle() -> int | None:
    """Raise the soft limit of open files to the hard one; return what holds then, None for any number. Call it before threads start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError) as error:  # some systems have a limit of their own below an unlimited hard one
            log.warning("the limit of open files stays %d and cannot be raised to the hard limit: %s", soft, error)
        else:
            soft = hard
    if soft == resource.RLIM_INFINITY:
        return None
    if soft < FEW:
        log.warning(
            "at most %d files can be open, and each connection is one: clients beyond that wait. Raise the hard limit to %d or more: "
            "LimitNOFILE= of systemd, --ulimit nofile= of docker, the container runtime's own in Kubernetes",
            soft,
            FEW,
        )
    return soft
