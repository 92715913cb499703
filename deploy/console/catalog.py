"""The models of the running server: versions, default, evidence and signature."""

import glob
import json
import math
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.archive import adopted
from deploy.archive.verify import identity
from deploy.console.evidence import facts
from deploy.errors import ModelNotFound, Refused
from deploy.signing.policy import Policy
from deploy.signing.signature import look
from deploy.torchserve.management import Management
from deploy.torchserve.rollout import register_file

KINDS = {
    "image_classification": "picture",
    "text_classification": "text",
    "text_embedding": "text",
    "speech_recognition": "audio",
    "tensors": "tensors",
}

MOST_EXAMPLE = 256  # values


@dataclass(frozen=True)
class Version:
    """A registered version.

    Attributes:
        kind: of its input: picture, text, audio, tensors, or any where nothing says.
        explains: whether it can say which words its answer rests on.
        example: an input in JSON, of a model of tensors.
        facts: name -> text, in the order to show: what is known of it.
        passed: whether its report holds its budget; None without a report.
        signature: one line, as `deploy status` prints it; `signed` in one word: trusted, unsigned,
            unknown, unchecked, wrong or absent.
    """

    name: str
    version: str
    default: bool
    ready: int
    workers: int
    kind: str
    explains: bool
    example: str
    facts: dict[str, str]
    passed: bool | None
    signature: str
    signed: str


@dataclass(frozen=True)
class Model:
    """A model's versions, the default one first.

    `earlier`: version and file name of its archives in the store that are not loaded.
    """

    name: str
    versions: list[Version]
    previous: str | None = None
    earlier: list[tuple[str, str]] = field(default_factory=list)

    @property
    def default(self) -> Version:
        """The version that answers requests that name none."""
        return self.versions[0]

    @property
    def rows(self) -> list[str]:
        """The names of facts that any of its versions has."""
        return list(dict.fromkeys(name for version in self.versions for name in version.facts))


@dataclass
class Catalog:
    """Reads what the server has; `store` holds the archives, `trust` says whose are loaded.

    `previous`: model -> the version that was the default before this console changed it.
    """

    management: Management
    store: Path
    trust: Policy
    previous: dict[str, str] = field(default_factory=dict)

    def models(self) -> list[Model]:
        """Every model, by name. Raises NoServer, Refused."""
        return [self._model(name) for name in sorted(self.management.models())]

    def find(self, name: str, version: str) -> dict[str, Any]:
        """What the server says of a registered version. Raises NoServer, ModelNotFound."""
        return self.management.describe(name, version)[0]

    def default(self, name: str) -> str:
        """The version that answers requests that name none. Raises NoServer, ModelNotFound."""
        return str(self.management.describe(name)[0]["modelVersion"])

    def promote(self, name: str, version: str) -> None:
        """Make a version the default and note which one was. Raises NoServer, Refused."""
        before = self.default(name)
        self.management.set_default(name, version)
        if before != version:
            self.previous[name] = before

    def restore(self, name: str, version: str) -> None:
        """Load an earlier archive of the store as `deploy register` does, and promote it.

        Raises NoServer, Refused, ModelNotFound, Untrusted.
        """
        entries = self.management.describe(name, "all")
        files = dict(self._earlier(name, {str(entry["modelVersion"]) for entry in entries}))
        if version not in files:
            detail = f"{self.store} holds no archive of {name} version {version} that is not loaded"
            raise ModelNotFound(detail, 404, "ModelVersionNotFoundException", detail)
        register_file(files[version], self.store, self.management, self.trust)
        self.promote(name, version)

    def _earlier(self, name: str, loaded: Collection[str]) -> list[tuple[str, str]]:
        found = []
        for path in sorted(self.store.glob(f"{glob.escape(name)}-*.mar")):
            known = identity(path)
            if known is not None and known[0] == name and known[1] not in loaded:
                found.append((known[1], path.name))
        return found

    def _model(self, name: str) -> Model:
        default = self.default(name)
        entries = self.management.describe(name, "all")
        versions = [self._version(entry, default) for entry in entries]
        versions.sort(key=lambda one: (not one.default, one.version))
        there = {one.version for one in versions}
        previous = self.previous.get(name)
        if previous == default or previous not in there:
            previous = None
        return Model(name, versions, previous, self._earlier(name, there))

    def _version(self, entry: dict[str, Any], default: str) -> Version:
        name, version = str(entry["modelName"]), str(entry["modelVersion"])
        told = self._description(name, version)
        archive = self.store / str(entry.get("modelUrl"))
        schema = _object(told.get("input"))
        signature, signed = self._signature(archive)
        ready = sum(worker.get("status") == "READY" for worker in entry["workers"])
        known, passed = facts(told, adopted.is_marked(archive))
        return Version(
            name,
            version,
            version == default,
            ready,
            int(entry["minWorkers"]),
            KINDS.get(str(told.get("task")), "any"),
            "method" in _object(schema.get("properties")),
            _example(schema),
            {
                "Workers": f"{ready} of {entry['minWorkers']} ready",
                **known,
                "Signature": signature,
                "Archive": str(entry.get("modelUrl")),
            },
            passed,
            signature,
            signed,
        )

    def _description(self, name: str, version: str) -> dict[str, Any]:
        """The handler's own; empty where no worker gives it."""
        try:
            (entry,) = self.management.describe(name, version, customized=True)
        except (Refused, ValueError):
            return {}
        return _object(entry.get("customizedMetadata"))

    def _signature(self, archive: Path) -> tuple[str, str]:
        if not archive.is_file():
            return f"not known: {archive.name} is not in {self.store}", "absent"
        found = look(archive, self.trust.trusted)
        return found.line(), found.state


def _example(schema: dict[str, Any]) -> str:
    """Zeros for every declared input of a model of tensors, one of each free size, as JSON; empty
    where that would be more than MOST_EXAMPLE values."""
    inputs = _object(schema.get("x-tensors")).get("inputs")
    found: dict[str, Any] = {}
    for entry in inputs if isinstance(inputs, list) else ():
        try:
            sizes = [max(1, int(size)) for size in entry["shape"]]
        except (KeyError, TypeError, ValueError, OverflowError):
            return ""  # a description of another form than ours
        if math.prod(sizes) > MOST_EXAMPLE:
            return ""
        value: Any = 0
        for size in reversed(sizes):
            value = [value] * size
        found[str(entry.get("name"))] = value
    return json.dumps(found) if found else ""


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
