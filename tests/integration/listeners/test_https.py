"""HTTPS listeners of a Snapshot: certificates by name and kind of key, who serves which host, 421."""

from __future__ import annotations

from tests.integration.listeners.conftest import Listeners, answers, listener, world


async def test_an_https_listener_ends_tls_with_the_certificate_of_the_snapshot(gateway: Listeners) -> None:
    shown = gateway.authority.certificate("api", "api.example")
    https = listener("https", 443, "HTTPS", certificates=(shown.id,))
    await gateway.start(world(https, shown, answers("a", https), await gateway.serve("a")))
    context = gateway.context()
    context.check_hostname = True
    assert await gateway.get(443, "api.example", context=context) == (200, "a")
