"""Looks at the registry and the documents, builds a schema when something changed, and swaps it in.

Readers take `view` once per request: a request runs to its end on the schema it began with.
"""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from nexus_core.discovery import Discovery, ServiceEntry
from nexus_sdk import NexusError, tracing
from nexus_sdk.logs import Log

from nexus_graphql.catalogue.documents import Known, receive
from nexus_graphql.execute.ports import Engine
from nexus_graphql.execute.upstream import Client
from nexus_graphql.schema import ServiceInfo, ServiceModel
from nexus_graphql.settings import CatalogueSettings

META = "nexus-openapi"
AT_ONCE = 32
"""Documents fetched at the same time."""

EngineFactory = Callable[[Sequence[ServiceModel]], Engine]


@dataclass(frozen=True, slots=True)
class View:
    """One schema in service. version: counts the schemas of this process, from 0 (before the first look)."""

    version: int
    engine: Engine
    services: tuple[ServiceInfo, ...]


class Catalogue:
    """own_name: this service's name in the registry, which it leaves out. now: monotonic seconds."""

    def __init__(
        self, discovery: Discovery, client: Client, build: EngineFactory, settings: CatalogueSettings, log: Log, *,
        own_name: str, now: Callable[[], float],
    ) -> None:  # fmt: skip
        self._discovery, self._client, self._build = discovery, client, build
        self._settings, self._log, self._own_name, self._now = settings, log, own_name, now
        self._known: dict[str, Known] = {}
        self._built: tuple[ServiceModel, ...] = ()
        self._faulty: dict[str, str] = {}
        self._trouble = "the registry was not asked yet"
        self._looked = False
        self._changed = asyncio.Event()
        self.view = View(0, build(()), ())

    async def run(self) -> None:
        """Look again and again, for ever."""
        while True:
            await self.look()
            await asyncio.sleep(self._settings.refresh_s)

    async def check(self) -> None:
        """Raise until the first look has ended. Later troubles do not make the service unready: it has a schema."""
        if not self._looked:
            raise ConnectionError(self._trouble)

    async def wait_for(self, is_there: Callable[[View], bool]) -> View:
        """Return the first view that `is_there` accepts, the present one included. Give it a deadline."""
        while not is_there(self.view):
            self._changed.clear()
            await self._changed.wait()
        return self.view

    async def look(self) -> None:
        """Look once: registry, documents, and a new schema if a model changed."""
        try:
            async with asyncio.timeout(self._settings.fetch_s):
                entries = await self._discovery.services()
        except (ConnectionError, TimeoutError) as err:
            self._complain(f"the registry is away: {err or type(err).__name__}")
            if not self._looked:
                return  # nothing is known, so there is nothing to serve yet
        else:
            self._trouble = ""
            self._note_entries([e for e in entries.values() if META in e.meta and self._takes(e.name)])
        slots = asyncio.Semaphore(AT_ONCE)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._fetch(known, slots)) for known in self._known.values()]
        for task in tasks:
            known = task.result()
            self._report(self._known[known.name], known)
            self._known[known.name] = known
        await self._swap()
        self._looked = True
        self._changed.set()

    def _takes(self, name: str) -> bool:
        """Return whether a service takes part: the last pattern that fits decides."""
        if name == self._own_name:
            return False
        patterns = self._settings.services or (f"*.{self._own_name.partition('.')[2]}",)
        taken = all(p.startswith("!") for p in patterns)  # only exceptions: everything else
        for pattern in patterns:
            if fnmatch.fnmatchcase(name, pattern.removeprefix("!")):
                taken = not pattern.startswith("!")
        return taken

    def _complain(self, text: str) -> None:
        if text != self._trouble:
            self._log.warning("discovery failed; the schema stays as it is", detail=text)
        self._trouble = text

    def _note_entries(self, entries: Sequence[ServiceEntry]) -> None:
        now = self._now()
        for entry in entries:
            path = entry.meta[META]
            known = self._known.get(entry.name)
            if known is None or known.path != path:
                self._known[entry.name] = Known(entry.name, path, now)
            else:
                self._known[entry.name] = replace(known, seen_at=now)
        for name, known in list(self._known.items()):
            if now - known.seen_at > self._settings.keep_s:
                del self._known[name]
                self._log.info("service left", service=name, kept_s=self._settings.keep_s)

    async def _fetch(self, known: Known, slots: asyncio.Semaphore) -> Known:
        """Return what is known after asking for the document. Raises nothing: one service never spoils the look."""
        try:
            return await self._ask(known, slots)
        except Exception as err:
            self._log.exception("document not read", service=known.name)
            return replace(known, away=f"Its document cannot be read ({type(err).__name__}). The log has the details.")

    async def _ask(self, known: Known, slots: asyncio.Semaphore) -> Known:
        if not known.path.startswith("/") or known.path.startswith("//"):
            return replace(known, away=f"Its {META} is {known.path!r}. Register a path such as '/openapi.json'.")
        headers = {"accept": "application/json"}
        if known.etag:
            headers["if-none-match"] = known.etag
        async with slots:
            try:
                with tracing.untraced():
                    answer = await self._client.request(
                        "GET", known.name, known.path, headers=headers, deadline_s=self._settings.fetch_s
                    )
            except NexusError as err:
                return replace(known, away=f"Its document cannot be read ({err.reason}). Is the service running?")
            if answer.status == 304 and known.digest:
                return replace(known, away="")
            if answer.status != 200:
                return replace(known, away=f"{known.path} answered {answer.status}. Serve the document there.")
            if len(answer.body) > self._settings.document_bytes:
                text = f"Its document has {len(answer.body)} bytes, {self._settings.document_bytes} are allowed."
                return replace(known, away=f"{text} Split it, or raise NEXUS_GRAPHQL_MAX_DOCUMENT_BYTES.")
            # Off the loop: requests go on while a large document is read.
            return await asyncio.to_thread(receive, known, answer.body, answer.headers.get("etag", ""))

    def _report(self, old: Known, new: Known) -> None:
        before, after = old.info(), new.info()
        if (before.state, before.problem) != (after.state, after.problem):
            log = self._log.info if after.state == "live" else self._log.warning
            log("service seen", service=new.name, state=after.state, operations=after.operations, problem=after.problem)

    async def _swap(self) -> None:
        models = tuple(
            known.model
            for _, known in sorted(self._known.items())
            if known.model is not None and not known.model.is_broken
        )
        engine, version = self.view.engine, self.view.version
        # The same objects: a model is replaced when its document changes, never altered.
        if (
            version == 0
            or len(models) != len(self._built)
            or any(a is not b for a, b in zip(models, self._built, strict=True))
        ):
            engine = await asyncio.to_thread(self._build_what_can_be, models)
            version, self._built = version + 1, models
            self._log.info("schema built", version=version, services=len(models))
        infos = tuple(self._info(known) for _, known in sorted(self._known.items()))
        self.view = View(version, engine, infos)

    def _info(self, known: Known) -> ServiceInfo:
        info = known.info()
        fault = self._faulty.get(known.name)
        return info if fault is None else replace(info, state="broken", operations=0, problem=fault)

    def _build_what_can_be(self, models: Sequence[ServiceModel]) -> Engine:
        """Build over all models; if that fails, which is a bug of ours, over those that build alone."""
        try:
            engine = self._build(models)
        except Exception:
            self._log.exception("schema does not build; looking for the service that breaks it")
        else:
            self._faulty = {}
            return engine
        good: list[ServiceModel] = []
        faulty: dict[str, str] = {}
        for model in models:
            try:
                self._build([*good, model])
            except Exception as err:
                faulty[model.service] = f"Its document breaks the schema ({err}). Report it; it is left out."
            else:
                good.append(model)
        self._faulty = faulty
        return self._build(good)
