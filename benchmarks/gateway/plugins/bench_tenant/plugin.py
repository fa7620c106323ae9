"""Refuses tenants that are blocked: what Envoy's RBAC filter does in the same run."""

from __future__ import annotations

from nexus_sdk.plugin import Plugin, Reply, RequestHead

_REFUSED = Reply(403, (("content-type", "text/plain"),), b"This tenant is blocked.\n")


class Tenant(Plugin):
    """Looks at `x-tenant`."""

    def on_request(self, request: RequestHead) -> RequestHead | Reply:
        """Return the request as it is, or the refusal."""
        tenant = request.header("x-tenant")
        return _REFUSED if tenant is not None and tenant.startswith("blocked-") else request
