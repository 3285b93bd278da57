"""Who may call our routes: only our own pages, only people whom the host has let in; in doubt nobody.

The host's own login does not cover routes that an extension adds, so it is asked here for every call.
"""

from __future__ import annotations

import hmac
import logging
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request

from ..errors import ExtensionError, HostError

TOKEN_HEADER = "X-Atelier-Token"
_READING = {"GET", "HEAD", "OPTIONS"}
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_log = logging.getLogger(__name__)


class RefusedError(Exception):
    """A call that is answered with ``status`` and the sentences of ``error``."""

    def __init__(self, status: int, error: ExtensionError) -> None:
        super().__init__(str(error))
        self.status = status
        self.error = error


@dataclass(frozen=True)
class Access:
    """The rules of one server.

    ``remote``: it can be reached from other machines. ``names``: host names it is called by besides this machine's.
    ``hides_paths``: whoever started it wants no folders named in its page. ``login``: whether the host has let this
    caller in; the default asks Gradio. ``token``: changes with every start.
    """

    remote: bool = False
    hides_paths: bool = False
    names: frozenset[str] = frozenset()
    login: Callable[[Request], bool] | None = None
    token: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)

    def check(self, request: Request) -> None:
        """Return if the caller may do this. Raises RefusedError otherwise."""
        self._check_host(request)
        self._check_login(request)
        if request.method not in _READING and not hmac.compare_digest(
            request.headers.get(TOKEN_HEADER, "").encode("utf-8"), self.token.encode("utf-8")
        ):
            raise RefusedError(
                403,
                HostError(
                    "This page is older than the program that answers it.",
                    why="The program was started again since the page was opened.",
                    todo="Reload the page.",
                ),
            )

    def check_paths(self) -> None:
        """Return if a caller may name any folder of this machine. Raises RefusedError when it could be a stranger."""
        if self.remote or self.hides_paths:
            raise RefusedError(
                403,
                HostError(
                    "A folder can't be chosen by its path here.",
                    why="The webui was started so."
                    if self.hides_paths
                    else "This webui can be reached from other machines.",
                    todo="Drop the pictures into the page instead.",
                ),
            )

    def _check_host(self, request: Request) -> None:
        # A foreign page can't send our Host (DNS rebinding) nor hide its Origin (cross-site requests).
        host = _host(request.headers.get("host", ""))
        if not host or (not self.remote and host not in _LOOPBACK | self.names):
            raise _foreign()
        origin = request.headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
            raise _foreign()
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            raise _foreign()

    def _check_login(self, request: Request) -> None:
        try:
            allowed = (self.login or gradio_login)(request)
        except Exception:
            # A host whose login we don't understand must not become an open door.
            _log.exception("the host's login could not be asked; the call was refused")
            allowed = False
        if not allowed:
            raise RefusedError(401, HostError("You are not logged in.", todo="Log in to the webui, then try again."))


def gradio_login(request: Request) -> bool:
    """Whether Gradio's own login has let this caller in; true where there is no login. Works on Gradio 3.41 to 6."""
    app: Any = request.app
    dependency = getattr(app, "auth_dependency", None)
    if dependency is not None:
        return bool(dependency(request))
    if getattr(app, "auth", None) is None:
        return True
    names = ["access-token", "access-token-unsecure"]
    if getattr(app, "cookie_id", None):
        names += [f"{name}-{app.cookie_id}" for name in list(names)]
    return any(request.cookies.get(name) in app.tokens for name in names if request.cookies.get(name))


def _host(header: str) -> str:
    """The name in a Host header, without port; empty for one that makes no sense."""
    try:
        return urlsplit(f"//{header}").hostname or ""
    except ValueError:
        return ""


def _foreign() -> RefusedError:
    return RefusedError(
        403,
        HostError(
            "This call was refused.",
            why="It came from another site than the webui's own page.",
            todo="Open the webui by the address that it printed.",
        ),
    )
