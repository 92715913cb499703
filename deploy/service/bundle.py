"""An archive unpacked into a private folder, checked first and never unpickled."""

import json
import shutil
import zipfile
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from deploy import scratch
from deploy.adopt import requirements
from deploy.archive import entry
from deploy.archive.adopted import MARK
from deploy.archive.verify import verify
from deploy.errors import BadInput
from handlers.seal import MANIFEST


@dataclass(frozen=True)
class Settings:
    """model-config.yaml as TorchServe reads it; delay in milliseconds, timeouts in seconds."""

    workers: int = 1
    batch_size: int = 1
    max_batch_delay_ms: int = 100
    response_timeout_s: int = 120
    startup_timeout_s: int = 120


@dataclass(frozen=True)
class Bundle:
    """An unpacked archive: `folder` is private to its owner, `entry` the handler's module in it.

    `adopted`: the handler is anyone's, and is loaded by TorchServe's rules; it finds the packages
    of its requirements.txt in `packages`.
    """

    folder: Path
    name: str
    version: str
    url: str
    sha256: str
    entry: str
    settings: Settings
    card: dict[str, Any]
    adopted: bool = False
    packages: Path | None = None

    def remove(self) -> None:
        """Delete the folder."""
        scratch.remove(self.folder)


def unpack(path: Path, handlers: Path | None = None, allow_ops: Collection[str] = ()) -> Bundle:
    """Check the archive and unpack it. Raises BadInput and leaves nothing behind.

    `handlers` is a folder to use in place of the archive's own: to debug, not to serve.
    `allow_ops` are operators that its TorchScript may call beyond the allowed ones.
    The archive is copied first, so that what is checked is what is unpacked.
    """
    if not path.is_file():
        verify(path)  # says what is wrong
    scratch.sweep("service")
    folder = scratch.make("service")
    try:
        copy = folder / "packed.mar"
        shutil.copyfile(path, copy)
        try:
            sealed = verify(copy, allow_ops)
        except BadInput as error:
            raise BadInput(str(error).replace(str(copy), str(path))) from error
        content = folder / "archive"
        with zipfile.ZipFile(copy) as packed:
            packed.extractall(content)
        copy.unlink()
        manifest = json.loads((content / MANIFEST).read_text("utf-8"))
        if handlers is not None:
            if sealed.adopted:
                raise BadInput(f"{path} is adopted and holds none of our handlers: no --handlers")
            _replace_handlers(content, handlers, str(manifest["model"]["handler"]))
        config = manifest["model"].get("configFile")
        return Bundle(
            folder=folder,
            name=sealed.name,
            version=sealed.version,
            url=path.name,
            sha256=sealed.sha256,
            entry=str(manifest["model"]["handler"]),
            settings=_settings(content / str(config), lenient=sealed.adopted),
            card=_card(content) if not sealed.adopted else {},
            adopted=sealed.adopted,
            packages=_packages(content, path.parent) if sealed.adopted else None,
        )
    except BaseException:
        scratch.remove(folder)
        raise


def content(bundle: Bundle) -> Path:
    """The folder that TorchServe would call model_dir."""
    return bundle.folder / "archive"


def _replace_handlers(folder: Path, handlers: Path, module: str) -> None:
    """Make a plain folder of an unpacked archive: nothing in it is compared with its list."""
    if not (handlers / "base.py").is_file():
        raise BadInput(f"{handlers} is no handlers folder: it holds no base.py")
    shutil.rmtree(folder / "handlers")
    shutil.rmtree((folder / MANIFEST).parent)
    (folder / "handlers").symlink_to(handlers.resolve(), target_is_directory=True)
    (folder / module).write_bytes(entry.plain(Path(module).stem))


def _card(folder: Path) -> dict[str, Any]:
    card: dict[str, Any] = json.loads((folder / "model.json").read_text("utf-8"))
    return card


def _packages(folder: Path, store: Path) -> Path | None:
    noted = json.loads((folder / MARK).read_text("utf-8"))
    listed = noted.get("requirements") or []
    return requirements.packages(store, [str(item) for item in listed]) if listed else None


def _settings(path: Path, lenient: bool = False) -> Settings:
    """`lenient`: what is missing or no whole number of 1 or more takes its default."""
    if lenient and not path.is_file():
        return Settings()
    try:
        values = yaml.safe_load(path.read_text("utf-8")) or {}
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise BadInput(f"{path.name} in the archive cannot be read: {error}") from error
    if not isinstance(values, dict):
        raise BadInput(f"{path.name} in the archive must hold key: value lines")

    def whole(key: str, default: int) -> int:
        value = values.get(key, default)
        if lenient and (type(value) is not int or value < 1):
            return default
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{path.name} in the archive: {key} must be a whole number of 1 or more")
        return value

    return Settings(
        workers=whole("minWorkers", 1),
        batch_size=whole("batchSize", 1),
        max_batch_delay_ms=whole("maxBatchDelay", 100),
        response_timeout_s=whole("responseTimeout", 120),
        startup_timeout_s=whole("startupTimeout", 120),
    )
