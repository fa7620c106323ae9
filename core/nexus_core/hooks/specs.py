"""The hooks, as values: who calls them, with what, for how long, and what a failure means. The reference page is made of this."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Where = Literal["gateway", "events", "graphql", "operator", "everywhere"]


@dataclass(frozen=True, slots=True)
class HookSpec:
    """One hook.

    arguments: their names and types after `self`. returns: the types a call may return. awaits: whether it may be a coroutine.
    budget: which time bounds a call. when: what it is called for, a sentence or two. result: what becomes of what it returns.
    open, closed: what a failure means under each failure policy; equal where the policy changes nothing.
    asks: a plain method that says of each request whether the hook is wanted; empty for none.
    """

    name: str
    where: Where
    since: str
    arguments: tuple[tuple[str, str], ...]
    returns: tuple[str, ...]
    awaits: bool
    budget: str
    when: str
    result: str
    open: str
    closed: str
    asks: str = ""


_CALL = "`budgets.callSeconds` of the NexusPlugin"
_PASSES = "the request goes on without the plugin"
_503 = "the client gets `503 PluginUnavailable`"
_NOTED = "counted and logged; nothing else changes"

HOOKS: tuple[HookSpec, ...] = (
    HookSpec(
        "start", "everywhere", "1.0", (), ("None",), True, "10 seconds",
        "Once, before the first call.", "Raising keeps the plugin from being used; it is tried again every 15 seconds.",
        "requests pass without it", "requests get `503 PluginUnavailable`",
    ),
    HookSpec(
        "stop", "everywhere", "1.0", (), ("None",), True, "5 seconds",
        "Once, after the last request, also after a failed `start`.", "Whatever it left running is cancelled.", _NOTED, _NOTED,
    ),
    HookSpec(
        "on_config", "everywhere", "1.1", (("config", "Mapping[str, Any]"),), ("None",), True, "10 seconds",
        "When `spec.config` changed and nothing else did. Without it a new instance is started in the old one's place.",
        "Raising keeps the former configuration in use, and the NexusPlugin's condition says why.", _NOTED, _NOTED,
    ),
    HookSpec(
        "on_request", "gateway", "1.0", (("request", "RequestHead"),), ("RequestHead", "Reply"), True, _CALL,
        "When the route is found, before anything of the request is sent on, in the order of the plugins.",
        "The head goes on to the next plugin; a `Reply` ends the request, and the plugins before see it in `on_response`. A method may "
        "become another one, but for HEAD and CONNECT, which stay, and which no other may become.",
        "the request goes on without the plugin: of its other hooks only `on_done` is called for it", _503,
    ),
    HookSpec(
        "on_request_body", "gateway", "1.1", (("request", "RequestHead"), ("body", "bytes")),
        ("bytes", "tuple[RequestHead, bytes]", "Reply"), True, _CALL,
        "When the request's body is here in full, at most `budgets.bodyBytes` of it; also for an empty one.",
        "The body goes on, with the new head if there is one. A larger body fails the hook.",
        _PASSES, "the client gets `413 BodyTooLarge` for a body that is too large, else `503 PluginUnavailable`",
        asks="wants_request_body",
    ),
    HookSpec(
        "on_request_stream", "gateway", "1.1", (("request", "RequestHead"),), ("BodyStream", "None"), False, _CALL,
        "Once for each request with a body, before its first piece is sent on.",
        "Each piece passes through `feed`, and `finish` gives the rest. The body goes on without a length.",
        "before the first piece, the body goes on as it came; later, the request breaks off", "the request breaks off",
    ),
    HookSpec(
        "on_route", "gateway", "1.1", (("request", "RequestHead"), ("choice", "RouteChoice")), ("RouteChoice", "Reply"), True, _CALL,
        "When one of the rule's upstreams was chosen by weight.",
        "The request goes to the upstream that is returned, one of `choice.upstreams`; a `Reply` ends it.", _PASSES, _503,
    ),
    HookSpec(
        "on_endpoint", "gateway", "1.1", (("request", "RequestHead"), ("endpoint", "Endpoint")), ("Headers",), False, _CALL,
        "For each attempt, when its endpoint is picked.", "The headers are added for this attempt, such as a signature for its host.",
        "the attempt goes on without them", _503,
    ),
    HookSpec(
        "on_response", "gateway", "1.0", (("request", "RequestHead"), ("response", "ResponseHead")), ("ResponseHead", "Reply"),
        True, _CALL,
        "When the response's head is here, in reverse order of the plugins. `request` is as this plugin's `on_request` returned it. "
        "When no upstream answered, the response is the gateway's own (502, 503 or 504, `application/problem+json`); answers to requests "
        "that are broken themselves, and `503 PluginUnavailable`, go out at once.",
        "The head goes on; a `Reply` takes the place of the whole response. Logs and metrics keep the reason of an answer of the gateway's "
        "own that was replaced.",
        "the response goes on unchanged", _503,
    ),
    HookSpec(
        "on_response_body", "gateway", "1.1", (("request", "RequestHead"), ("response", "ResponseHead"), ("body", "bytes")),
        ("bytes", "Reply"), True, _CALL,
        "When the response's body is here in full, at most `budgets.bodyBytes` of it. The `grpc-` trailers of a gRPC call stand "
        "behind the head's headers.",
        "The body goes on; a `Reply` takes the place of the whole response. A larger body fails the hook.",
        "the response goes on unchanged",
        "the client gets `502 ResponseTooLarge` for a body that is too large, else `503 PluginUnavailable`",
        asks="wants_response_body",
    ),
    HookSpec(
        "on_response_stream", "gateway", "1.1", (("request", "RequestHead"), ("response", "ResponseHead")), ("BodyStream", "None"),
        False, _CALL,
        "Once for each response with a body, after `on_response`; `response` is as it came to this plugin, before its `on_response`.",
        "Each piece passes through `feed`, and `finish` gives the rest. The body goes on without a length.",
        "before the first piece, the body goes on as it came; later, the response breaks off", "the response breaks off",
    ),
    HookSpec(
        "on_done", "gateway", "1.1", (("request", "RequestHead"), ("done", "Done")), ("None",), True, _CALL,
        "When a request is over that this plugin's `on_request` would have seen. It delays nobody: coroutines run afterwards, "
        "at most 1,000 of a plugin at once; what is beyond is dropped and counted.",
        "Nothing is returned.", _NOTED, _NOTED,
    ),
    HookSpec(
        "on_client_message", "gateway", "1.1", (("socket", "Socket"), ("message", "Message")), ("Message", "Close", "None"),
        True, _CALL,
        "For each message that the client of a WebSocket sends, whole and decompressed, at most `budgets.bodyBytes`.",
        "The message goes on, or is dropped for None; `Close` ends both sides. A larger one ends them with 1009.",
        "the message goes on unchanged", "both sides are closed with 1011",
    ),
    HookSpec(
        "on_server_message", "gateway", "1.1", (("socket", "Socket"), ("message", "Message")), ("Message", "Close", "None"),
        True, _CALL,
        "For each message that the service sends on a WebSocket, whole and decompressed, at most `budgets.bodyBytes`.",
        "The message goes on, or is dropped for None; `Close` ends both sides. A larger one ends them with 1009.",
        "the message goes on unchanged", "both sides are closed with 1011",
    ),
    HookSpec(
        "on_event_accepted", "events", "1.1", (("event", "Event"),), ("Event", "Refusal"), True, _CALL,
        "For each event, before it is stored and acknowledged.",
        "The event is stored as returned; a `Refusal` refuses the request it came in with 422.",
        "the event is stored unchanged", "the request is refused with 503 and can be repeated",
    ),
    HookSpec(
        "on_event_delivered", "events", "1.1", (("event", "Event"), ("delivery", "Delivery")), ("None",), True, _CALL,
        "When a subscriber took an event.", "Nothing is returned.", _NOTED, _NOTED,
    ),
    HookSpec(
        "on_event_dead_lettered", "events", "1.1", (("event", "Event"), ("delivery", "Delivery")), ("None",), True, _CALL,
        "When a subscriber did not take an event in all its attempts.", "Nothing is returned.", _NOTED, _NOTED,
    ),
    HookSpec(
        "on_operation_parsed", "graphql", "1.1", (("operation", "Operation"),), ("Operation", "Refusal"), True, _CALL,
        "When an operation was parsed and found valid, before it is executed.",
        "It is executed with the returned variables; a `Refusal` becomes its only error.",
        "the operation is executed unchanged", "the client gets an error with the code `PLUGIN_UNAVAILABLE`",
    ),
    HookSpec(
        "on_operation_resolved", "graphql", "1.1", (("operation", "Operation"), ("result", "Resolved")), ("Resolved",), True, _CALL,
        "When an operation was executed; for a subscription, for each of its results.", "The client gets what is returned.",
        "the client gets the result unchanged", "the client gets an error with the code `PLUGIN_UNAVAILABLE`",
    ),
    HookSpec(
        "on_manifest", "operator", "1.1", (("manifest", "Manifest"),), ("Manifest", "Refusal"), False, _CALL,
        "For each object of the plugin's namespace that is translated, before it is; pure, so that equal manifests give equal results. "
        "It runs where manifests are read, in a process of its own, without secrets: beside the operator, and beside a gateway that is "
        "given files (`nexus up`, `nexus gateway -f`). `nexus validate`, `nexus diff` and others that only look run no plugin's code; "
        "`nexus validate` names the plugins whose hooks it left out.",
        "Its spec is translated in place of the one that was applied; a `Refusal` becomes its condition `Accepted`.",
        "the manifest is translated as it was applied",
        "the manifest is not accepted, and its last good version keeps serving",
    ),
)  # fmt: skip

BY_NAME = {hook.name: hook for hook in HOOKS}
ASKING = frozenset(hook.asks for hook in HOOKS if hook.asks)
