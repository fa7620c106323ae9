"""What a plugin may do, as types. `nexus_sdk.plugin` is where authors import them from; gateway, services and operator call them."""

from nexus_core.hooks.context import Called, CallFailed, Context, NotGranted
from nexus_core.hooks.events import Delivery, Event
from nexus_core.hooks.http import (
    API_VERSION,
    BodyStream,
    Done,
    Endpoint,
    Headers,
    Reply,
    RequestHead,
    ResponseHead,
    RouteChoice,
)
from nexus_core.hooks.manifests import Manifest
from nexus_core.hooks.operations import Operation, Resolved
from nexus_core.hooks.plugin import Plugin, PluginConfigError
from nexus_core.hooks.refusals import Refusal
from nexus_core.hooks.sockets import Close, Message, Socket

__all__ = [
    "API_VERSION",
    "BodyStream",
    "CallFailed",
    "Called",
    "Close",
    "Context",
    "Delivery",
    "Done",
    "Endpoint",
    "Event",
    "Headers",
    "Manifest",
    "Message",
    "NotGranted",
    "Operation",
    "Plugin",
    "PluginConfigError",
    "Refusal",
    "Reply",
    "RequestHead",
    "Resolved",
    "ResponseHead",
    "RouteChoice",
    "Socket",
]
