"""Where each reason is explained."""

from __future__ import annotations

from nexus_core.problems.catalogue import REASONS


def page_of(reason: str) -> str:
    """Return the documentation page of a reason, as a path in the repository; empty for one that has none."""
    info = REASONS.get(reason)
    return f"docs/errors/{info.page}" if info is not None else ""
