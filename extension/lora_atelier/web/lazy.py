"""Routes that are made when they are first asked for: a webui's start must not wait for what nobody has opened yet."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute, Match


class LazyRoutes(BaseRoute):
    """Stands in a server for everything below ``prefix`` until ``load`` has put the real routes into it."""

    def __init__(self, app: Any, prefix: str, load: Callable[[], Any]) -> None:
        """``load`` returns the router with the real routes; it may take a second."""
        self._app, self._prefix, self._load = app, prefix, load
        self._lock = threading.Lock()

    def matches(self, scope: Any) -> tuple[Match, dict[str, Any]]:
        """Every path below the prefix, as long as the real routes are not there."""
        path = str(scope.get("path", "")).removeprefix(str(scope.get("root_path") or ""))
        wanted = scope["type"] == "http" and path.startswith(f"{self._prefix}/")
        return (Match.FULL if wanted else Match.NONE), {}

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Put the real routes in place, then ask the server again, which now finds them."""
        await run_in_threadpool(self._replace)
        await scope["router"](scope, receive, send)

    def _replace(self) -> None:
        with self._lock:
            routes = self._app.router.routes
            if self in routes:
                self._app.include_router(self._load())
                routes.remove(self)


def add(app: Any, prefix: str, load: Callable[[], Any]) -> None:
    """Let ``app`` answer below ``prefix`` with the routes that ``load`` gives, once somebody asks."""
    app.router.routes.append(LazyRoutes(app, prefix, load))


class Below(BaseRoute):
    """Hands what is asked for below ``start`` + ``prefix`` to what answers below ``prefix``.

    SD.Next serves its page a second time below its sub-path, as an application of its own that knows no other routes.
    """

    def __init__(self, start: str, prefix: str) -> None:
        self._start, self._prefix = start, prefix

    def matches(self, scope: Any) -> tuple[Match, dict[str, Any]]:
        """Every path below both."""
        path = str(scope.get("path", ""))
        wanted = scope["type"] == "http" and path.startswith(f"{self._start}{self._prefix}/")
        return (Match.FULL if wanted else Match.NONE), {}

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Ask the server for the same without the start."""
        path = str(scope["path"]).removeprefix(self._start)
        await scope["router"]({**scope, "path": path, "raw_path": path.encode()}, receive, send)


def add_below(app: Any, start: str, prefix: str) -> None:
    """Let ``app`` answer below ``start`` + ``prefix`` as it does below ``prefix``, before anything mounted there."""
    app.router.routes.insert(0, Below(start, prefix))
