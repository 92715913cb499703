"""The verb `python -m deploy flask`: serve archives in this process, without TorchServe."""

import argparse
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import BadInput, Refused
from deploy.torchserve import config as configuration
from deploy.torchserve import ports
from deploy.torchserve import server as torchserve
from deploy.torchserve.inference import content_type, parameter_headers, parse_parameters
from deploy.torchserve.tokens import KEY_FILE

if TYPE_CHECKING:
    from deploy.service.models import Models

HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --workdir and --model-store are shared with the other verbs."""
    parser.add_argument("archives", nargs="+", metavar="ARCHIVE", help="model_store/NAME.mar")
    parser.add_argument("--host", default=HOST, help="address to listen at (default: loopback)")
    parser.add_argument(
        "--key-file", metavar="FILE", help="a key that every client must send as Bearer"
    )
    parser.add_argument(
        "--no-key", action="store_true", help="listen beyond loopback without asking for a key"
    )
    parser.add_argument(
        "--allow-host",
        action="append",
        default=[],
        metavar="NAME",
        help="a name under which clients reach the service, beyond this machine's",
    )
    parser.add_argument("--port", type=int, default=8080, help="inference (default: 8080)")
    parser.add_argument(
        "--management-port", type=int, default=8081, help="always on loopback (default: 8081)"
    )
    parser.add_argument("--workers", type=int, help="threads per model (default: the archive's)")
    parser.add_argument("--once", metavar="FILE", help="answer one file in-process and exit")
    parser.add_argument("--content-type", help="of FILE (default: from its suffix)")
    parser.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="such as top_k=3"
    )
    parser.add_argument(
        "--handlers", metavar="DIR", help="use this folder instead of the archives' own handlers/"
    )


def run(args: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT, or answer --once. Raises DeployError."""
    try:
        import flask  # noqa: F401
        import prometheus_client  # noqa: F401
        import waitress  # noqa: F401
    except ImportError as error:
        packages = "flask waitress prometheus-client"
        raise BadInput(f"{error}: `pip install {packages}`, or run `make setup`") from error
    if args.workers is not None and not 1 <= args.workers <= 64:
        raise BadInput("--workers must be a whole number from 1 to 64")
    handlers = Path(args.handlers) if args.handlers else None
    if args.once is not None:
        _once(args, handlers)
    else:
        _serve(args, handlers)


def _once(args: argparse.Namespace, handlers: Path | None) -> None:
    from deploy.service import once

    if len(args.archives) != 1:
        raise BadInput("--once takes one archive")
    headers = {"Content-Type": args.content_type or content_type(Path(args.once))}
    headers |= parameter_headers(parse_parameters(args.param))
    trust = configuration.trust(Path(args.config), optional=True)
    archive, file = Path(args.archives[0]), Path(args.once)
    answer = once.ask(archive, file, headers, handlers, args.allow_ops, trust)
    text = answer.body.decode("utf-8", "replace")
    print(f"{answer.status} {answer.content_type}\n{text}")
    if answer.status >= 400:
        raise Refused("the handler refused the request", answer.status)


def _serve(args: argparse.Namespace, handlers: Path | None) -> None:
    from deploy.service import access, app, control, keys
    from deploy.service.models import Models
    from deploy.service.server import Server, stop_on_signals

    workdir = Path(args.workdir)
    if torchserve.running(workdir) is not None:
        raise BadInput(f"a TorchServe runs in {workdir}: stop it, or choose another --workdir")
    for port, host in ((args.port, args.host), (args.management_port, HOST)):
        if port and not ports.is_free(port, host):
            raise BadInput(f"port {port} is taken by {ports.owner(port)}: choose another")
    key = access.read_key(Path(args.key_file)) if args.key_file else None
    if key is None and not args.no_key and not access.is_loopback(args.host):
        raise BadInput(
            f"--host {args.host} lets others in: give --key-file FILE with the key they must send, "
            "or --no-key if something in front asks for one"
        )
    hosts = [args.host, *args.allow_host]
    trust = configuration.trust(Path(args.config), optional=True)
    models = Models(handlers=handlers, allow_ops=args.allow_ops, trust=trust)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while loading: clean up and go
    try:
        for path in args.archives:
            _load(models, Path(path), args.workers)
        inference = Server(app.build(models, hosts, key), args.host, args.port, _threads(models))
        own_key = keys.write(workdir)
        try:
            management_app = control.build(models, Path(args.model_store), own_key)
            management = Server(management_app, HOST, args.management_port, threads=2)
            stop_on_signals(inference, management)
            print(f"inference   {inference.address}")
            print(f"management  {management.address} (key in {workdir / KEY_FILE})", flush=True)
            management_thread = threading.Thread(target=management.run, name="management")
            management_thread.start()
            finished = inference.run()
            management.stop()
            management_thread.join()
        finally:
            keys.remove(workdir, own_key)
    finally:
        finished = models.close()
    print("stopped" if finished else "stopped; some requests were not answered")


def _load(models: "Models", path: Path, workers: int | None) -> None:
    from deploy.service.failure import Failure

    try:
        model = models.register(path, workers, at_startup=True)
    except Failure as error:
        raise BadInput(f"{path}: {error.message}") from error
    print(f"loaded      {model.bundle.name} version {model.bundle.version}", flush=True)


def _threads(models: "Models") -> int:
    """Requests in the service at a time: every model's queue, and a batch for each worker."""
    from deploy.service.pool import QUEUE_SIZE

    loaded = [m for name in models.names() for m in models.versions(name)]
    requests = sum(QUEUE_SIZE + m.bundle.settings.batch_size * m.min_workers for m in loaded)
    return max(QUEUE_SIZE, min(256, requests))
