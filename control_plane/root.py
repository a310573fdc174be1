"""The path below which a reverse proxy serves the control plane (`control.rootPath`).

The proxy may strip it or not: every route is served with it and without. Routes, scopes and limits see the path without it; what a client is
handed (links, redirects, the path of a cookie, the instance of a problem) has it.
"""

from typing import Any

from litestar.types import ASGIApp, Receive, Send


def below(root: str, app: ASGIApp) -> ASGIApp:
    """Serves `app` below `root` ("" or as "/dihedral")."""
    if not root:
        return app
    prefix = f"{root}/"

    async def wrapped(scope: Any, receive: Receive, send: Send) -> None:
        if scope["type"] in ("http", "websocket"):
            scope["state"] = {**scope.get("state", {}), "root": root}
            path = scope["path"]
            if path == root or path.startswith(prefix):
                scope["path"] = path[len(root) :] or "/"
                scope["raw_path"] = scope["raw_path"][len(root) :] or b"/"
        await app(scope, receive, send)

    return wrapped


def address(scope: Any, path: str) -> str:
    """Returns a path as the client knows it."""
    return f"{scope.get('state', {}).get('root', '')}{path}"


def base_url(connection: Any) -> str:
    """Returns the address of this control plane as the client knows it, without a slash at its end."""
    scheme = connection.headers.get("x-forwarded-proto", str(connection.scope["scheme"]))
    host = connection.headers.get("host", "localhost")
    return f"{'https' if scheme.lower() in ('https', 'wss') else 'http'}://{host}{address(connection.scope, '')}"
