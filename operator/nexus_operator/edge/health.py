"""/healthz, /readyz and /metrics of one operator replica."""

from __future__ import annotations

from collections.abc import Callable

from aiohttp import web


class HealthServer:
    """Serves until `stop()`. port: the one bound, also when 0 was asked for."""

    def __init__(
        self, listen: tuple[str, int], *, alive: Callable[[], str], ready: Callable[[], str], metrics: Callable[[], str]
    ) -> None:
        """alive, ready: return an empty string, or why not. metrics: the Prometheus text format."""
        self._listen = listen
        self._checks = {"/healthz": alive, "/readyz": ready}
        self._metrics = metrics
        self._runner: web.AppRunner | None = None
        self.port = listen[1]

    async def start(self) -> None:
        """Bind and serve. Raises OSError when the address is taken."""
        app = web.Application()
        app.router.add_get("/healthz", self._check)
        app.router.add_get("/readyz", self._check)
        app.router.add_get("/metrics", self._show_metrics)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, *self._listen)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Stop serving."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _check(self, request: web.Request) -> web.Response:
        fault = self._checks[request.path]()
        return web.Response(status=503 if fault else 200, text=f"{fault or 'ok'}\n")

    async def _show_metrics(self, _: web.Request) -> web.Response:
        return web.Response(text=self._metrics(), content_type="text/plain", charset="utf-8")
