"""The one loop that makes the world what the manifests say.

Each round: parse what changed → translate everything → in parallel the children (Kubernetes) and the way to the gateways
(mirror the endpoints, publish the Snapshot; Consul) → write statuses. Rounds never overlap; changes that come meanwhile
are collected for the next one. A step that fails costs only itself: it is shown in the conditions and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import time
from collections.abc import Awaitable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from nexus_core.certificates.sealing import Sealer
from nexus_core.model.resources import Resource
from nexus_core.problems import Problem
from nexus_core.translate import Translation
from nexus_core.translate.service_plugins import service_plugins

from nexus_operator.children.dataplanes import Fabric, render_data_plane
from nexus_operator.children.gateways import Planned, plan_data_planes
from nexus_operator.children.render import Surroundings, render
from nexus_operator.edge.ackwatch import AckWatch
from nexus_operator.edge.artefacts import ArtefactMirror
from nexus_operator.edge.catalog import Catalog
from nexus_operator.edge.childwriter import RETRY_S, ChildWriter, Kept
from nexus_operator.edge.comparing import Comparing
from nexus_operator.edge.consul import ConsulApi, ConsulAway
from nexus_operator.edge.indexes import Indexes
from nexus_operator.edge.kube import KubeApi, KubeError
from nexus_operator.edge.markets import read_config_map
from nexus_operator.edge.pluginlife import PluginLife
from nexus_operator.edge.publisher import Publisher
from nexus_operator.edge.reportwatch import ReportWatch
from nexus_operator.edge.samples import SampleFeed
from nexus_operator.edge.sealkeys import ensure_seal_key
from nexus_operator.edge.serviceplugins import ServiceLists
from nexus_operator.edge.statuswriter import StatusWriter
from nexus_operator.edge.translator import Translator
from nexus_operator.metrics import Metrics
from nexus_operator.mirror.endpoints import build_registrations, named_services, slices_by_service
from nexus_operator.mirror.registrations import Registration, counts
from nexus_operator.mirror.retiring import Retiring
from nexus_operator.publication.acks import Fingerprints, Ledger
from nexus_operator.publication.fleets import Fleet
from nexus_operator.publication.previews import Held
from nexus_operator.publication.servicereports import hostings
from nexus_operator.settings import Settings
from nexus_operator.status.build import build_statuses
from nexus_operator.status.fronts import fronts_of, replicas_of
from nexus_operator.status.routes import Routes
from nexus_operator.status.view import View
from nexus_operator.status.writes import needed
from nexus_operator.world.inventory import Inventory, Object
from nexus_operator.world.kinds import NEXUS_GATEWAY_PARAMETERS, NEXUS_SERVICE, RUNTIME

log = logging.getLogger(__name__)
FIRST_RETRY_S = 0.5
LAST_RETRY_S = 15.0
FIRST_SAMPLE_S, SAMPLE_S = 1.0, 10.0
"""How often the gateways' samples are looked at while an object is previewed: before the first one, and later."""
FIRST_ACKS_S = 2.0
"""How long a new leader's first statuses wait for what Consul says of the gateways."""


class Reconciler:
    """Does the leader's work. `lead()` runs while this replica leads; the rest of the time it only collects wake-ups."""

    def __init__(
        self, settings: Settings, kube: KubeApi, consul: ConsulApi, inventory: Inventory, metrics: Metrics
    ) -> None:
        self._settings = settings
        self._kube = kube
        self._inventory = inventory
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._config_changed = True
        self._children = ChildWriter(kube, inventory, metrics)
        self._publisher = Publisher(consul, settings.prefix)
        self._catalog = Catalog(consul, settings.consul_node)
        self._consul = consul
        self._lists = ServiceLists(consul, settings.prefix)
        self._statuses = StatusWriter(kube, inventory, metrics)
        self._indexes = Indexes(
            ttl_s=settings.index_ttl_s,
            state=Path(settings.state_dir) / "marketplaces",
            changed=self._on_config,
            configmap=lambda namespace, name: read_config_map(inventory, namespace, name),
        )
        self._artefacts = ArtefactMirror(consul, settings.prefix, self._indexes, Path(settings.state_dir) / "artefacts")
        self._translator = Translator(settings, kube, inventory, self._indexes, self._artefacts.obtain)
        self._surroundings = Surroundings(
            consul_url=settings.workload_consul_url or settings.consul_url,
            consul_prefix=settings.prefix,
            otlp_endpoint=settings.otlp_endpoint,
            security=settings.workload_security,
        )
        self._candidate: Translation | None = None
        self._translation: Translation | None = None
        self._planned = Planned({})
        self._rendered: tuple[Object, ...] = ()
        self._fabric: Fabric | None = None
        self._sealer: Sealer | None = None
        self._prints = Fingerprints()
        self._wanted: Mapping[str, int] = {}
        self._registrations: Mapping[str, Registration] = {}
        self._start_leading()

    def _start_leading(self) -> None:
        """Forget what another leader may have changed since."""
        self._ledger = Ledger()
        self._routes = Routes()
        self._acks = AckWatch(
            self._consul, self._settings.prefix, changed=self._on_runtime, returned=self._on_consul_back
        )
        self._reports = ReportWatch(self._consul, self._settings.prefix, changed=self._on_runtime)
        self._loaded = False
        self._life = PluginLife(self._kube, self._consul, self._inventory, self._settings.prefix)
        # What was applied is what the last leader applied: the Snapshot tells, our memory of an earlier term does not.
        self._held = Held((), (), {})
        self._comparing = Comparing(SampleFeed(self._consul, self._settings.prefix))
        self._consul_fault = ""
        self._child_problems: tuple[Problem, ...] = ()
        self._retiring = Retiring()
        self._failures: dict[str, int] = {}
        self._config_changed = True
        self._catalog.forget()

    # --- wake-ups ------------------------------------------------------------------------------------------------------

    def wake_for(self, kind: str) -> None:
        """An object of this kind changed in a way that matters."""
        if kind in RUNTIME:
            self._on_runtime()
        else:
            self._on_config()

    def _on_config(self) -> None:
        self._config_changed = True
        self._wake.set()

    def _on_runtime(self) -> None:
        self._wake.set()

    def _on_consul_back(self) -> None:
        self._catalog.forget()
        self._wake.set()

    # --- the loop ------------------------------------------------------------------------------------------------------

    async def lead(self) -> None:
        """Reconcile until cancelled."""
        self._publisher = Publisher(self._consul, self._settings.prefix)
        self._start_leading()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._acks.run(), name="acks")
            group.create_task(self._reports.run(), name="reports of services")
            group.create_task(self._loop(), name="reconcile")

    async def close(self) -> None:
        """Release what is held while not leading too."""
        await self._indexes.close()
        await self._artefacts.close()
        await self._translator.close()

    async def _loop(self) -> None:
        while True:
            self._wake.clear()
            self._metrics.reconciliations_total += 1
            started = time.monotonic()
            await self._round()
            self._metrics.reconcile_seconds_total += time.monotonic() - started
            wait_s = min(self._settings.resync_s, RETRY_S) if self._child_problems else self._settings.resync_s
            if self._held.previewed:
                wait_s = min(wait_s, FIRST_SAMPLE_S if self._comparing.waits else SAMPLE_S)
            if self._failures:
                worst = min(self._failures.values())
                wait_s = min(wait_s, LAST_RETRY_S, FIRST_RETRY_S * 2 ** (worst - 1)) * (1 + random.random() / 4)
            else:
                wait_s = min(wait_s, self._until_change())
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
                await asyncio.sleep(self._settings.debounce_s)
            except TimeoutError:
                if not self._failures:
                    # Nothing has happened for a while: look whether Consul's catalog still is as it was.
                    self._catalog.forget()

    def _until_change(self) -> float:
        """Seconds until time alone changes the translation, which is then due."""
        left_s = self._translator.due_in_s()
        if left_s <= 0:
            self._config_changed = True
        return left_s

    async def _round(self) -> None:
        await self._step("locks", self._settle())
        if self._config_changed or self._translation is None:
            self._config_changed = False
            await self._step("seal key", self._take_seal_key())
            if self._sealer is None:
                return  # what is sealed with any other key, no gateway could open
            await self._step("load", self._load())
            await self._step("named", self._read_named())
            await self._step("translate", self._translate())
            if self._translation is None:
                return
        self._registrations = self._wanted_registrations()
        await asyncio.gather(self._step("children", self._sync_children()), self._step("publish", self._to_gateways()))
        await self._step("preview", self._compare())
        await self._step("figures", self._life.read_figures())
        await self._step("status", self._write_statuses())

    async def _step(self, name: str, work: Awaitable[None]) -> None:
        """Run one step; what fails is logged, counted and left to the next round."""
        try:
            await work
        except (KubeError, ConsulAway) as err:
            if name not in self._failures:
                log.warning("%s: %s", name, err)
            self._failed(name)
        except Exception:
            # A fault of ours in one step must not keep the others from their work.
            log.exception("%s failed", name)
            self._failed(name)
        else:
            if self._failures.pop(name, 0):
                log.info("%s works again", name)

    def _failed(self, name: str) -> None:
        self._metrics.step_failures_total += 1
        self._failures[name] = self._failures.get(name, 0) + 1

    # --- steps ---------------------------------------------------------------------------------------------------------

    async def _take_seal_key(self) -> None:
        """Learn the key that private keys are sealed with, once."""
        if self._fabric is not None:
            return
        given = self._settings
        try:
            key = given.seal_key or await ensure_seal_key(self._kube, given.namespace, given.seal_secret)
        except KubeError:
            self._config_changed = True  # translate again with it
            raise
        self._sealer = Sealer(key)
        self._fabric = Fabric(
            image=given.gateway_image,
            seal_key=key,
            consul_url=given.workload_consul_url or given.consul_url,
            consul_token=given.gateway_consul_token or given.consul_token,
            consul_prefix=given.prefix,
            otlp_endpoint=given.otlp_endpoint,
            log_level=given.log_level,
            pull_policy=given.gateway_pull_policy,
            pull_secrets=given.gateway_pull_secrets,
        )

    async def _settle(self) -> None:
        """Let releases take over that have proved themselves, and take those back that have not."""
        published = self._publisher.last if self._loaded else None
        if await self._life.settle(published, self._acks.acks):
            self._config_changed = True

    async def _read_named(self) -> None:
        """Learn what is in the Secrets and ConfigMaps that plugins and marketplaces name."""
        try:
            await self._translator.read_named()
        except KubeError:
            self._config_changed = True  # translate again with it
            raise

    async def _load(self) -> None:
        """Learn what is published, once: broken objects keep their last good form from there."""
        if self._loaded:
            return
        try:
            published = await self._publisher.load()
        except ConsulAway as err:
            self._consul_fault = str(err)
            self._config_changed = True  # translate again with it
            raise
        self._loaded = True
        self._consul_fault = ""
        if published is not None:
            self._ledger.record(published)
            log.info("generation %d is published", published.generation)

    async def _translate(self) -> None:
        """Translate the world and render its children: all of it or, when something raises, nothing, which should not be."""
        try:
            last = self._publisher.last
            done = await self._translator.translate(
                self._held.applied,
                previous=last.snapshot if last is not None else None,
                sealer=self._sealer,
                locks=self._life.locks,
            )
            held, translation, candidate = done.held, done.translation, done.candidate
            planned = self._plan(translation, held.world)
            rendered = self._render(planned, held.world)
            wanted = self._prints.of(translation.snapshot)
        except Exception:
            self._config_changed = True  # try again
            raise
        before = self._translation
        self._held, self._translation, self._candidate = held, translation, candidate
        self._planned, self._rendered, self._wanted = planned, rendered, wanted
        self._metrics.problems = len(translation.problems)
        self._retiring.replace(before.mirrors if before is not None else (), time.monotonic())

    def _render(self, planned: Planned, resources: tuple[Resource, ...]) -> tuple[Object, ...]:
        assert self._fabric is not None
        services = (r for r in resources if r.ref.kind == NEXUS_SERVICE.kind and not _deleted(r))
        rendered = [child for r in services for child in render(r, self._surroundings)]
        for plane in planned.planes.values():
            rendered += render_data_plane(plane, self._fabric)
        return tuple(rendered)

    def _plan(self, translation: Translation, resources: tuple[Resource, ...]) -> Planned:
        parameters = {
            (r.ref.namespace, r.ref.name): r for r in resources if r.ref.kind == NEXUS_GATEWAY_PARAMETERS.kind
        }
        return plan_data_planes(
            translation,
            self._inventory,
            parameters,
            namespace=self._settings.namespace,
            default_parameters=self._settings.gateway_parameters_key,
        )

    async def _sync_children(self) -> None:
        unreadable = {
            str(r.raw["metadata"].get("uid"))
            for r in self._held.world
            if r.ref.kind == "NexusService" and r.spec is None
        }
        kept = Kept(frozenset(unreadable | self._planned.owners), self._planned.children)
        self._child_problems = await self._children.sync(self._rendered, kept)

    async def _compare(self) -> None:
        assert self._translation is not None
        candidate = self._candidate.snapshot if self._candidate is not None else None
        await self._comparing.compare(self._held.previewed, self._translation.snapshot, candidate)

    async def _to_gateways(self) -> None:
        """Mirror endpoints, then publish: a gateway never learns of a route before its endpoints are there."""
        assert self._translation is not None
        try:
            wanted = self._registrations
            self._metrics.mirrored_endpoints = len(wanted)
            difference = await self._catalog.sync(wanted)
            self._metrics.mirror_writes_total += len(difference.register) + len(difference.deregister)
            if not self._loaded:
                return  # publishing without knowing the last good forms would lose them
            await self._artefacts.ensure(self._translation.snapshot)
            await self._publish(self._translation)
            await self._lists.sync(service_plugins(self._translation.snapshot, self._held.world))
        except ConsulAway as err:
            self._consul_fault = str(err)
            raise
        self._consul_fault = ""

    async def _publish(self, translation: Translation) -> None:
        before = self._publisher.last
        acked = max((ack.generation for ack in self._acks.acks), default=0)
        published = await self._publisher.publish(translation.snapshot, acked=acked)
        self._ledger.record(published)
        if before is None or before.generation != published.generation:
            self._metrics.publications_total += 1
        self._metrics.generation = published.generation
        state = self._fleet().liveness(published.generation)
        self._metrics.gateways, self._metrics.gateways_current = state.total, state.live

    def _fleet(self) -> Fleet:
        return Fleet(self._acks.acks, replicas_of(self._inventory, self._planned), self._publisher.last)

    def _wanted_registrations(self) -> Mapping[str, Registration]:
        """What the catalog should hold: endpoints of every route, and of those that gateways may still have."""
        assert self._translation is not None
        published = self._publisher.last
        live = published is not None and self._fleet().liveness(published.generation)
        current = published is not None and published.snapshot == self._translation.snapshot
        settled = current and live and (live.everywhere or live.total == 0) and self._acks.known.is_set()
        wanted = {mirror.consul_service: mirror for mirror in self._translation.mirrors}.values()
        mirrors = [*wanted, *self._retiring.beside(wanted, time.monotonic(), settled=bool(settled))]
        services = dict(self._inventory.items("Service"))
        return build_registrations(mirrors, services, slices_by_service(self._inventory), self._settings.prefix)

    async def _hear(self) -> None:
        """Wait for the first word of the gateways: a new leader would else tell of every object that no gateway has it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(0.0 if self._acks.fault else FIRST_ACKS_S):
                await self._acks.known.wait()

    async def _write_statuses(self) -> None:
        assert self._translation is not None
        await self._hear()
        slices = slices_by_service(self._inventory)
        view = View(
            inventory=self._inventory,
            resources=self._held.world,
            translation=self._translation,
            published=self._publisher.last,
            wanted=self._wanted,
            since=self._ledger.since,
            fleet=self._fleet(),
            now_utc=datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            docs_base=self._settings.docs_base,
            child_problems=(*self._child_problems, *self._artefacts.problems, *self._translator.hooks.problems),
            consul_fault=self._consul_fault or self._acks.fault,
            counts=counts(self._registrations.values()),
            mirrored=frozenset(mirror.consul_service for mirror in self._translation.mirrors),
            named=named_services(slices),
            fronts=fronts_of(self._inventory, self._planned, slices),
            listeners={listener.id: listener for listener in self._translation.snapshot.listeners},
            gateway_url=self._settings.gateway_url,
            indexes=self._indexes.current,
            troubles=self._indexes.troubles,
            preview=self._comparing.preview,
            candidate_problems=self._candidate.problems if self._candidate is not None else (),
            locks=self._life.locks,
            figures=self._life.figures,
            hostings=hostings(self._reports.current, service_plugins(self._translation.snapshot, self._held.world))
            if self._reports.current
            else {},
            metadata=self._indexes.metadata,
        )
        writes = needed(build_statuses(view, self._routes))
        await self._life.tell(writes)
        await self._statuses.write(writes)


def _deleted(resource: Resource) -> bool:
    return bool(resource.raw["metadata"].get("deletionTimestamp"))
