"""Who may ask the console: its own page, in the browser that opened the link it printed.

The console holds the server's keys, so that whoever may ask it may do what they allow. Any page in
a browser can send requests to loopback, other users of the machine can too, and a name of somebody
else's can be made to mean 127.0.0.1 (DNS rebinding). Hence four checks: the Host header names
loopback and our port; Origin and Sec-Fetch-Site, where sent, are our own; a cookie that only the
link's code gave; and, for all but the page itself, a token that stands in the page.
"""

import hmac
import secrets

from deploy.service.failure import Failure
from deploy.service.request import Request

HOSTS = ("127.0.0.1", "localhost")
TOKEN_HEADER = "x-console-token"
# What holds nothing of the server's: files of the package, and the way in.
_OPEN = ("/static/", "/enter/")


class Gate:
    """The secrets of one console and the checks of its requests.

    `port` is where it listens, known once it does; `token` stands in the page.
    """

    def __init__(self) -> None:
        self.port: int | None = None
        self.token = secrets.token_urlsafe(32)
        self._cookie = secrets.token_urlsafe(32)
        self._code = secrets.token_urlsafe(32)

    @property
    def link(self) -> str:
        """The address that lets one browser in, once."""
        return f"http://{HOSTS[0]}:{self.port}/enter/{self._code}"

    def enter(self, code: str) -> str:
        """The Set-Cookie header for the browser that brought the link's code, which is used up.

        Raises Failure 403.
        """
        if not hmac.compare_digest(code.encode(), self._code.encode()):
            raise forbidden("this link was used already: open the newest one that it printed")
        self._code = secrets.token_urlsafe(32)
        return f"{self._name}={self._cookie}; Path=/; HttpOnly; SameSite=Strict"

    def check(self, request: Request) -> None:
        """Raise Failure 403 unless the request is from our own page."""
        host = request.header("host").lower()
        if self.port is None or host not in {f"{name}:{self.port}" for name in HOSTS}:
            raise forbidden(f"the console is not known as {host[:80]!r}: open the link it printed")
        if request.path.startswith(_OPEN):
            return
        origin = request.header("origin")
        if origin and origin != f"http://{host}":
            raise forbidden("a page of another origin asked")
        if request.method != "GET" and not origin:
            raise forbidden("the request says no origin")
        if request.header("sec-fetch-site", "none") not in ("same-origin", "none"):
            raise forbidden("a page of another site asked")
        if not hmac.compare_digest(self._sent(request).encode(), self._cookie.encode()):
            raise forbidden("this browser has not been let in: open the newest link it printed")
        token = request.header(TOKEN_HEADER)
        if request.path != "/" and not hmac.compare_digest(token.encode(), self.token.encode()):
            raise forbidden("the page is of a console that has ended: open the newest link")

    @property
    def _name(self) -> str:
        """Of the cookie: browsers keep one jar for all ports of a host."""
        return f"marpress-console-{self.port}"

    def _sent(self, request: Request) -> str:
        # Not by http.cookies, which stops at the first cookie that another port's server misspelt.
        pairs = (part.partition("=") for part in request.header("cookie").split(";"))
        return next((value.strip() for name, _, value in pairs if name.strip() == self._name), "")


def forbidden(message: str) -> Failure:
    """The request is not from where it must be."""
    return Failure(403, "ForbiddenException", message)
