"""Health over HTTP on a port of its own: /healthz (the process is alive) and /readyz (it takes connections and the log
answers), and the routes that others add. Never touches players' data.
"""

from collections.abc import Callable, Iterable

from aiohttp import web


class HealthServer:
    """Runs in the worker's loop, so /healthz also tells that the loop turns."""

    def __init__(self, is_ready: Callable[[], str]) -> None:
        """`is_ready` tells why not; "" = ready."""
        self._is_ready = is_ready
        self._application = application = web.Application()
        application.router.add_get("/healthz", self._healthz)
        application.router.add_get("/readyz", self._readyz)
        self._runner = web.AppRunner(application, access_log=None, handle_signals=False, shutdown_timeout=1)

    def add(self, routes: Iterable[web.RouteDef]) -> None:
        """Before `start`."""
        self._application.router.add_routes(routes)

    async def start(self, host: str, port: int) -> int:
        """The port that it listens on. Raises OSError."""
        await self._runner.setup()
        site = web.TCPSite(self._runner, host, port)
        await site.start()
        address = self._runner.addresses[0]
        return int(address[1])

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def _healthz(self, request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def _readyz(self, request: web.Request) -> web.Response:
        reason = self._is_ready()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ready'}\n")
