"""HTTP on a port of its own, for whoever operates the server: health, metrics, and the routes that others add.

The port belongs on loopback or a private network: health and metrics ask nobody who calls. Never touches
players' data.
"""

from collections.abc import Callable, Iterable

from aiohttp import hdrs, web

from chatcore_server.metrics import Exposition


class HttpServer:
    """Runs in the worker's loop, so /healthz also tells that the loop turns."""

    def __init__(self) -> None:
        self._application = web.Application()
        self._runner = web.AppRunner(self._application, access_log=None, handle_signals=False, shutdown_timeout=1)

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


def health_routes(why_not_ready: Callable[[], str]) -> list[web.RouteDef]:
    """/healthz: the process is alive. /readyz: it takes connections and the log answers; `why_not_ready` "" = so it
    is."""

    async def healthz(request: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(request: web.Request) -> web.Response:
        reason = why_not_ready()
        return web.Response(status=503 if reason else 200, text=f"{reason or 'ready'}\n")

    return [web.get("/healthz", healthz), web.get("/readyz", readyz)]


def metrics_routes(exposition: Exposition) -> list[web.RouteDef]:
    """/metrics, in the format that is asked for."""

    async def metrics(request: web.Request) -> web.Response:
        text, content_type = await exposition.scrape(",".join(request.headers.getall(hdrs.ACCEPT, [])))
        return web.Response(body=text, headers={hdrs.CONTENT_TYPE: content_type})

    return [web.get("/metrics", metrics)]
