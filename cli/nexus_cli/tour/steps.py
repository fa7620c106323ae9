"""The steps, in the order of the journey. Each returns what it saw and raises StepError for anything else."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from nexus_cli.tour.world import Answer, Listener, StepError, World, new_trace
from nexus_cli.trees import render_trace, services_on_way

QUERY = "{ listItems { id name priceCents } listOrders(limit: 1) { id name customer } }"
MUTATION = "mutation ($input: NewOrderInput!) { placeOrder(input: $input) { id name totalCents } }"
WAY = ("orders", "events", "websocket")
"""Services that the trace of an order passes, besides the gateway."""


@dataclass(frozen=True, slots=True)
class Seen:
    """request: what was sent, as a command where there is one. result: one line. detail: more lines, may be empty."""

    request: str
    result: str
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Step:
    """title: what it shows, for people. walk: does it."""

    title: str
    walk: Callable[[World], Awaitable[Seen]]


async def catalog(world: World) -> Seen:
    """A service behind the gateway answers."""

    async def ask() -> Answer | None:
        answer = await world.call("GET", "/catalog/items")
        return None if answer.status in (502, 503) else answer  # it may still be starting

    answer = (await world.eventually(ask, "An answer of the catalog other than 503")).require(200)
    items = answer.json()
    if not items:
        raise StepError(f"{answer.request} lists no items.")
    world.found["item"] = items[0]["id"]
    return Seen(answer.request, f"{len(items)} items, the first: {items[0]['name']}")


async def listen(world: World) -> Seen:
    """A WebSocket passes the gateway."""
    listener = await Listener.open(world, "orders")
    world.found["listener"] = listener
    return Seen(f'{listener.url}, then {{"subscribe": "orders"}}', "subscribed")


async def order(world: World) -> Seen:
    """An order is placed; its trace id is ours, so that we find it again."""
    world.found["trace_id"], traceparent = new_trace()
    body = {"item": world.found["item"], "quantity": 2, "customer": "the tour"}
    answer = (await world.call("POST", "/orders", body=body, headers={"traceparent": traceparent})).require(201)
    placed = world.found["order"] = answer.json()
    return Seen(answer.request, f"201, {placed['quantity']} × {placed['name']}, order {placed['id']}")


async def event(world: World) -> Seen:
    """The order's event is in the event service's store."""
    order_id = world.found["order"]["id"]
    requests: list[str] = []

    async def look() -> dict[str, Any] | None:
        head = (await world.call("GET", "/events?limit=1")).require(200).json()["head"]
        after = max(0, int(head) - 100)
        answer = (await world.call("GET", f"/events?type=order.placed&after={after}&limit=100")).require(200)
        requests[:] = [answer.request]
        return next((e for e in answer.json()["events"] if e["event"]["id"] == order_id), None)

    stored = await world.eventually(look, f"The event of order {order_id}")
    return Seen(requests[0], f"order.placed is stored durably at offset {stored['offset']}")


async def delivery(world: World) -> Seen:
    """It was pushed to the WebSocket service and from there to us."""
    listener: Listener = world.found["listener"]
    order_id = world.found["order"]["id"]
    async for message in listener.messages():
        if message.get("channel") == "orders" and message["data"].get("id") == order_id:
            data = message["data"]
            return Seen(
                f"{listener.url} (reading)", f"received: {data['quantity']} × {data['name']} for {data['customer']}"
            )
    raise StepError("The WebSocket ended.")  # pragma: no cover - messages() never ends by itself


async def query(world: World) -> Seen:
    """One GraphQL query asks two services."""
    requests: list[str] = []

    async def look() -> dict[str, Any] | None:
        answer = (await world.call("POST", "/graphql", body={"query": QUERY})).require(200)
        requests[:] = [answer.request]
        found = answer.json()
        # The schema grows as services are found; right after a start a field may not be there yet.
        return None if found.get("errors") else found["data"]

    data = await world.eventually(look, f"An answer without errors to the query {QUERY}")
    if not data["listItems"] or not data["listOrders"]:
        raise StepError(f"{requests[0]} answered no items or no orders: {data}")
    latest = data["listOrders"][0]
    return Seen(requests[0], f"{len(data['listItems'])} items of catalog, and of orders the latest: {latest['name']}")


async def mutation(world: World) -> Seen:
    """A GraphQL mutation places an order, which is announced like any other."""
    variables = {"input": {"item": world.found["item"], "quantity": 1, "customer": "the tour, by GraphQL"}}
    answer = (await world.call("POST", "/graphql", body={"query": MUTATION, "variables": variables})).require(200)
    found = answer.json()
    if found.get("errors"):
        raise StepError(f"{answer.request} answered errors: {found['errors']}")
    placed = found["data"]["placeOrder"]
    async for message in world.found["listener"].messages():
        if message.get("channel") == "orders" and message["data"].get("id") == placed["id"]:
            break
    return Seen(answer.request, f"order {placed['id']}, seen on the WebSocket, too")


async def request_id(world: World) -> Seen:
    """The request-id plugin runs on every route: our id comes back, and without one we get one."""
    answer = (await world.call("GET", "/catalog/items", headers={"x-request-id": "tour-4711"})).require(200)
    if answer.headers.get("x-request-id") != "tour-4711":
        got = answer.headers.get("x-request-id")
        raise StepError(
            f"{answer.request} answered x-request-id {got!r}. Is the plugin request-id enabled? `nexus plugin list`."
        )
    fresh = (await world.call("GET", "/catalog/items")).headers.get("x-request-id")
    if not fresh:
        raise StepError("A request without x-request-id got none.")
    return Seen(answer.request, f"x-request-id: tour-4711 came back; without one: {fresh}")


async def api_key(world: World) -> Seen:
    """A plugin is enabled and disabled while the gateway runs."""
    home = world.plugins
    if home is None:
        raise StepError(
            "Nobody said where the plugins are kept. Name the manifests with -f, or the cluster with --context."
        )
    found = next((p for p in home.list() if p.name == "api-key" and p.namespace == "shop"), None)
    if found is None or found.spec is None:
        raise StepError("There is no usable NexusPlugin shop/api-key. examples/shop/plugins.yaml has it.")
    statuses = []
    try:
        where = home.set_enabled(found, True)
        await _until(world, 401, "With the plugin enabled, 401 without a key")
        statuses.append("enabled: 401 without a key")
        (await world.call("GET", "/orders", headers={"x-api-key": world.api_key})).require(200)
        statuses.append("200 with one")
    finally:
        home.set_enabled(found, found.spec.enabled)
    if found.spec.enabled:
        return Seen("nexus plugin enable api-key", ", ".join(statuses) + "; it was enabled before and stays so")
    await _until(world, 200, "With the plugin disabled, 200 without a key")
    statuses.append("disabled: 200 again")
    return Seen(f"nexus plugin enable, then disable api-key ({where})", ", ".join(statuses) + "; nothing was restarted")


async def _until(world: World, status: int, what: str) -> None:
    async def look() -> bool | None:
        return True if (await world.call("GET", "/orders")).status == status else None

    await world.eventually(look, what)


async def trace(world: World) -> Seen:
    """The order's way is one connected trace."""
    trace_id = world.found["trace_id"]
    latest: list[dict[str, Any]] = []

    async def look() -> dict[str, Any] | None:
        found = await world.traces(trace_id)
        if found is None:
            return None
        latest[:] = [found]
        # Connected: everything hangs below one span, and the way ends at the WebSocket delivery.
        return found if len(found["spans"]) == 1 and set(WAY) <= set(services_on_way(found)) else None

    try:
        found = await world.eventually(look, f"One connected trace {trace_id} over {', '.join(WAY)}")
    except StepError as error:
        raise StepError(f"{error}\n{render_trace(latest[0])}" if latest else str(error)) from error
    way = " → ".join(services_on_way(found))
    return Seen(f"nexus traces {trace_id}", f"{found['span_count']} spans: {way}", render_trace(found))


STEPS: tuple[Step, ...] = (
    Step("Ask a service through the gateway", catalog),
    Step("Subscribe to orders over WebSocket", listen),
    Step("Place an order", order),
    Step("Find its event in the event service", event),
    Step("Receive it over WebSocket", delivery),
    Step("Query two services at once with GraphQL", query),
    Step("Place an order with a GraphQL mutation", mutation),
    Step("See the request-id plugin at work", request_id),
    Step("Enable and disable a plugin while it runs", api_key),
    Step("Follow the order in one trace", trace),
)
