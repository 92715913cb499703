"""The verb `python -m deploy serve-archive`: serve archives without TorchServe.

`flask` is its older name, with the same options.
"""

import argparse
import asyncio
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.errors import BadInput, Refused
from deploy.torchserve import config as configuration
from deploy.torchserve import environment, ports
from deploy.torchserve import server as torchserve
from deploy.torchserve.inference import content_type, parameter_headers, parse_parameters
from deploy.torchserve.tokens import KEY_FILE

if TYPE_CHECKING:
    from deploy.service.models import Models

HOST = "127.0.0.1"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The verb's own arguments; --workdir and --model-store are shared with the other verbs."""
    parser.add_argument("archives", nargs="*", metavar="ARCHIVE", help="model_store/NAME.mar")
    parser.add_argument(
        "--sagemaker",
        action="store_true",
        help="as SageMaker starts a container: the archives of SM_MODEL_DIR or /opt/ml/model, the "
        "port of SAGEMAKER_BIND_TO_PORT, all addresses, no key, any name",
    )
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
    parser.add_argument("--workers", type=int, help="processes per model (default: the archive's)")
    parser.add_argument(
        "--memory-limit", type=int, metavar="MIB", help="data that a worker may hold (default: any)"
    )
    parser.add_argument(
        "--debug",
        action="store_true",
        help="plain Flask, one request at a time, handlers in this process: for breakpoints",
    )
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
        import httptools  # noqa: F401
        import prometheus_client  # noqa: F401
        import uvicorn  # noqa: F401
        import werkzeug  # noqa: F401
    except ImportError as error:
        packages = "flask uvicorn httptools prometheus-client psutil"
        raise BadInput(f"{error}: `pip install {packages}`, or run `make setup`") from error
    if args.workers is not None and not 1 <= args.workers <= 64:
        raise BadInput("--workers must be a whole number from 1 to 64")
    if args.memory_limit is not None and args.memory_limit < 1:
        raise BadInput("--memory-limit must be a whole number of MiB")
    if args.sagemaker:
        _obey_sagemaker(args)
    if not args.archives:
        raise BadInput("name an archive: model_store/NAME.mar")
    handlers = Path(args.handlers) if args.handlers else None
    if args.once is not None:
        _once(args, handlers)
    elif args.debug:
        _debug(args, handlers)
    else:
        _serve(args, handlers)


def _obey_sagemaker(args: argparse.Namespace) -> None:
    from deploy.service import sagemaker

    args.archives = args.archives or [str(path) for path in sagemaker.archives(os.environ)]
    args.port = sagemaker.port(os.environ)
    args.host, args.no_key, args.allow_host = "0.0.0.0", True, ["*"]


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


def _debug(args: argparse.Namespace, handlers: Path | None) -> None:
    from deploy.service import access, app, debug
    from deploy.service.models import Models

    if not access.is_loopback(args.host):
        raise BadInput("--debug serves this machine alone: leave --host out")
    trust = configuration.trust(Path(args.config), optional=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with asyncio.Runner() as runner:
        models = Models(
            handlers=handlers, allow_ops=args.allow_ops, trust=trust, process=debug.InProcess
        )
        try:
            for path in args.archives:
                runner.run(_load(models, Path(path), 1))
            debug.serve(app.build(models), runner.get_loop(), args.host, args.port)
        finally:
            runner.run(models.close())


def _serve(args: argparse.Namespace, handlers: Path | None) -> None:
    from deploy.service import access, process

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
    # Workers have what is left here, and run the archives' code.
    kept = environment.passed(os.environ)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # while loading: clean up and go
    process.prepare()
    asyncio.run(_served(args, handlers, key))


async def _served(args: argparse.Namespace, handlers: Path | None, key: str | None) -> None:
    from deploy.service import app, control, keys
    from deploy.service.models import Models
    from deploy.service.server import Server, stop_on_signals

    workdir = Path(args.workdir)
    limit = None if args.memory_limit is None else args.memory_limit << 20
    trust = configuration.trust(Path(args.config), optional=True)
    models = Models(handlers=handlers, allow_ops=args.allow_ops, memory_limit=limit, trust=trust)
    finished = False
    try:
        for path in args.archives:
            await _load(models, Path(path), args.workers)
        inference_app = app.build(models, [args.host, *args.allow_host], key)
        inference = Server(inference_app, args.host, args.port)
        own_key = keys.write(workdir, key)
        try:
            management_app = control.build(models, Path(args.model_store), own_key)
            management = Server(management_app, HOST, args.management_port)
            stop_on_signals(inference, management)
            print(f"inference   {inference.address}")
            print(f"management  {management.address} (key in {workdir / KEY_FILE})", flush=True)
            finished = all(await asyncio.gather(inference.answer(), management.answer()))
        finally:
            keys.remove(workdir, own_key)
    finally:
        finished = await models.close() and finished
    print("stopped" if finished else "stopped; some requests were not answered")


async def _load(models: "Models", path: Path, workers: int | None) -> None:
    from deploy.service.failure import Failure

    try:
        model = await models.register(path, workers, at_startup=True)
    except Failure as error:
        raise BadInput(f"{path}: {error.message}") from error
    print(f"loaded      {model.bundle.name} version {model.bundle.version}", flush=True)
