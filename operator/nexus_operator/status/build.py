"""The status of every object, from one view of the world."""

from __future__ import annotations

from collections.abc import Iterator

from nexus_operator.status import gateway_api, marketplaces, parameters, plugins, services
from nexus_operator.status.previews import add_previews
from nexus_operator.status.routes import Routes, build_policies
from nexus_operator.status.view import View
from nexus_operator.status.writes import StatusWrite


def build_statuses(view: View, routes: Routes | None = None) -> Iterator[StatusWrite]:
    """Yield what each object should show; most of it is there already (see `writes.needed`).

    routes: remembers from one view to the next what the many routes show.
    """
    yield from add_previews(view, _build(view, routes or Routes()))


def _build(view: View, routes: Routes) -> Iterator[StatusWrite]:
    problems = view.problems()
    yield from services.build(view, problems)
    yield from plugins.build(view, problems)
    yield from marketplaces.build(view, problems)
    yield from parameters.build(view)
    yield from gateway_api.build(view, problems)
    yield from routes.build(view, problems)
    yield from build_policies(view)
