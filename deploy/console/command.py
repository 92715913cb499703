"""The verb `python -m deploy console`: models, answers and figures of a server, in a browser."""

import argparse
import asyncio
import os
import sys
import threading
import webbrowser
from pathlib import Path

import requests

from deploy.errors import BadInput, NoServer
from deploy.torchserve import config as configuration
from deploy.torchserve import http
from deploy.torchserve import server as torchserve
from deploy.torchserve.config import Config
from deploy.torchserve.tokens import KEY_FILE, Tokens

HOST = "127.0.0.1"
TIMEOUT = 10.0  # seconds, of a look at the metrics


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --workdir, --config and --model-store are the other verbs' too."""
    parser.add_argument("--port", type=int, default=0, help="on loopback (default: a free one)")
    parser.add_argument(
        "--no-browser", action="store_true", help="print the link, and open no browser"
    )


def run(args: argparse.Namespace) -> None:
    """Serve the console until SIGTERM or SIGINT.

    Raises NoServer where nothing answers at the addresses of --config, BadInput.
    """
    if not 0 <= args.port <= 65535:
        raise BadInput("--port must be a whole number from 0, for a free one, to 65535")
    try:
        import httptools  # noqa: F401
        import jinja2  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
        import werkzeug  # noqa: F401
    except ImportError as error:
        packages = "flask uvicorn httptools prometheus-client psutil jinja2"
        raise BadInput(f"{error}: `pip install {packages}`, or run `make setup`") from error
    workdir, settings = Path(args.workdir), configuration.read(Path(args.config))
    management, inference = torchserve.clients(workdir, settings)
    inference.ping()
    management.models()
    asyncio.run(_served(args, workdir, settings))


async def _served(args: argparse.Namespace, workdir: Path, settings: Config) -> None:
    from deploy.console import app
    from deploy.console.catalog import Catalog
    from deploy.console.gate import Gate
    from deploy.console.live import Live
    from deploy.service.server import Server, stop_on_signals

    management, inference = torchserve.clients(workdir, settings)
    trust = configuration.trust(Path(args.config))
    tokens = Tokens(workdir / KEY_FILE if settings.tokens else None, settings.management)
    behind = app.Server(
        settings.inference,
        workdir,
        Catalog(management, Path(args.model_store), trust),
        inference,
        Live(management, lambda: metrics(settings, tokens)),
    )
    gate = Gate()

    def again() -> None:
        print(f"let in; for another browser: {gate.link}", flush=True)

    server = Server(app.build(behind, gate, again), HOST, args.port)
    gate.port = server.socket.getsockname()[1]
    stop_on_signals(server)
    print(f"console for {settings.inference}: open this link, it works once; Ctrl-C ends it")
    print(gate.link, flush=True)
    if not args.no_browser and _has_screen():
        # In a thread that nobody waits for: some browsers return when they are closed.
        threading.Thread(target=webbrowser.open, args=(gate.link,), daemon=True).start()
    await server.answer()
    print("console ended")


def _has_screen() -> bool:
    """Whether a browser would open a window; one for terminals would take ours."""
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    return sys.platform in ("darwin", "win32") or bool(shown)


def metrics(settings: Config, tokens: Tokens) -> str:
    """The server's Prometheus text: TorchServe has an address for it, our service its main one.

    Raises NoServer.
    """
    # The main address first: something else may have TorchServe's default one for metrics.
    places = ((settings.inference, tokens.auth("inference")), (settings.metrics, None))
    failed = ""
    for address, auth in places:
        try:
            reply = http.request("GET", f"{address}/metrics", auth=auth, timeout=TIMEOUT)
        except requests.RequestException as error:
            failed = f": {error}"
            continue
        if reply.status_code == 200:
            return reply.text
    tried = f"{settings.inference}/metrics nor {settings.metrics}/metrics"
    raise NoServer(f"no metrics at {tried}{failed}")
