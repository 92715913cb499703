"""What is read of a server's models, and a new default."""

from pathlib import Path
from typing import Any

import pytest

from deploy.console.catalog import Catalog
from deploy.errors import ModelNotFound, Refused
from deploy.signing.policy import Policy

TENSORS = {
    "task": "tensors",
    "input": {
        "x-tensors": {
            "inputs": [
                {"name": "x", "datatype": "FP32", "shape": [-1, 2, 3]},
                {"name": "kind", "datatype": "INT64", "shape": [-1]},
            ]
        }
    },
}
TEXTS = {"task": "text_classification", "input": {"properties": {"method": {"enum": []}}}}


class Server:
    """A management API over versions in memory: (name, version) -> the handler's description."""

    def __init__(self, told: dict[tuple[str, str], Any], default: dict[str, str]) -> None:
        self.told = told
        self.defaults = default

    def models(self) -> dict[str, str]:
        return {name: f"{name}.mar" for name, _ in self.told}

    def describe(
        self, name: str, version: str | None = None, customized: bool = False
    ) -> list[dict[str, Any]]:
        found = [v for n, v in self.told if n == name and version in (v, "all")]
        if version is None:
            found = [self.defaults[name]]
        if not found:
            raise ModelNotFound(
                "not found", 404, "ModelVersionNotFoundException", "no such version"
            )
        if customized and isinstance(self.told[name, found[0]], Exception):
            raise self.told[name, found[0]]
        return [
            {
                "modelName": name,
                "modelVersion": one,
                "modelUrl": f"{name}-{one}.mar",
                "minWorkers": 2,
                "workers": [{"status": "READY"}, {"status": "UNLOADED"}],
                **({"customizedMetadata": self.told[name, one]} if customized else {}),
            }
            for one in found
        ]

    def set_default(self, name: str, version: str) -> str:
        self.defaults[name] = version
        return ""


def catalog(store: Path, default: str = "2", **told: Any) -> Catalog:
    versions = {("m", name.removeprefix("v")): value for name, value in told.items()}
    return Catalog(Server(versions, {"m": default}), store, Policy())  # type: ignore[arg-type]


def test_versions_the_default_first(tmp_path: Path) -> None:
    (model,) = catalog(tmp_path, v1=TEXTS, v2=TENSORS, v3={}).models()
    assert [one.version for one in model.versions] == ["2", "1", "3"]
    assert model.default.default and not model.versions[1].default
    assert [(one.kind, one.explains) for one in model.versions] == [
        ("tensors", False),
        ("text", True),
        ("any", False),
    ]
    assert model.default.example == '{"x": [[[0, 0, 0], [0, 0, 0]]], "kind": [0]}'
    assert (model.default.ready, model.default.workers) == (1, 2)
    assert model.default.facts["Workers"] == "1 of 2 ready"


def test_an_example_that_would_fill_the_page_is_left_out(tmp_path: Path) -> None:
    large = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 3, 224, 224]}]}
    (model,) = catalog(tmp_path, v2={"task": "tensors", "input": {"x-tensors": large}}).models()
    assert model.default.example == ""


@pytest.mark.parametrize("told", [None, "text", [1], Refused("no worker", 500), ValueError("no")])
def test_a_handler_that_does_not_describe_itself(tmp_path: Path, told: Any) -> None:
    (model,) = catalog(tmp_path, v2=told).models()
    assert (model.default.kind, model.default.facts["Evidence"]) == ("any", "no report")


def test_a_signature_is_looked_for_only_where_the_archive_is(tmp_path: Path) -> None:
    (model,) = catalog(tmp_path, v2={}).models()
    assert model.default.signed == "absent"
    assert "m-2.mar is not in" in model.default.signature
    (tmp_path / "m-2.mar").write_bytes(b"an archive")
    (model,) = catalog(tmp_path, v2={}).models()
    assert (model.default.signed, model.default.signature) == ("unsigned", "unsigned")


def test_a_version_that_is_not_there(tmp_path: Path) -> None:
    made = catalog(tmp_path, v1={}, v2={})
    assert made.find("m", "1")["modelVersion"] == "1"
    with pytest.raises(ModelNotFound):
        made.find("m", "3")


def test_only_archives_of_the_store_are_loaded(tmp_path: Path) -> None:
    made = catalog(tmp_path, v1={}, v2={})
    (tmp_path / "m-3.mar").write_bytes(b"no archive")
    assert made.models()[0].earlier == []
    for version in ("3", "1", "../m-3", "*"):
        with pytest.raises(ModelNotFound, match="holds no archive of m version"):
            made.restore("m", version)
    assert made.default("m") == "2"


def test_promote_and_back(tmp_path: Path) -> None:
    made = catalog(tmp_path, v1={}, v2={})
    assert made.models()[0].previous is None
    made.promote("m", "1")
    assert (made.default("m"), made.models()[0].previous) == ("1", "2")
    made.promote("m", "1")  # again: what was before it stays known
    assert made.models()[0].previous == "2"
    made.promote("m", "2")
    assert (made.default("m"), made.models()[0].previous) == ("2", "1")
    del made.management.told["m", "1"]  # type: ignore[attr-defined]
    assert made.models()[0].previous is None


@pytest.mark.parametrize("entry", [3, {}, {"shape": ["n"]}, {"shape": [None]}, {"shape": 2}])
def test_a_description_of_another_form_has_no_example(tmp_path: Path, entry: Any) -> None:
    told = {"task": "tensors", "input": {"x-tensors": {"inputs": [entry]}}}
    assert catalog(tmp_path, default="1", v1=told).models()[0].default.example == ""
