"""The status of every object, from one view of the world."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_operator.status import gateway_api, plugins, services
from nexus_operator.status.previews import add_previews
from nexus_operator.status.view import View
from nexus_operator.status.writes import StatusWrite


def build_statuses(view: View) -> Iterator[StatusWrite]:
    """Yield what each object should show; most of it is there already (see `writes.needed`)."""
    yield from add_previews(view, _build(view))


def _build(view: View) -> Iterator[StatusWrite]:
    problems = view.problems()
    yield from services.build(view, problems)
    yield from plugins.build(view, problems)
    yield from gateway_api.build(view, problems)
