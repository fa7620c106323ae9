"""The seal key of a process that makes its Snapshots itself. Apart from `sealing`: this much costs no cryptography library."""

from __future__ import annotations

import functools
import os

KEY_BYTES = 32


@functools.cache
def process_key() -> bytes:
    """Return a key that this process made for itself: nobody else has it but whom it is told. It never changes, so that equal worlds
    give equal text."""
    return os.urandom(KEY_BYTES)
