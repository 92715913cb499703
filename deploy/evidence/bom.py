"""What an archive is made of: a CycloneDX 1.6 bill of materials (ML-BOM), as JSON.

It names the model with its card, the data, the packages that it was made and measured with, with
their licences, and the archive's files with their hashes. All of it comes from the report and from
the files, and no clock is read, so one artifact gives one bill.
"""

import datetime
import hashlib
import json
import uuid
from collections.abc import Mapping
from typing import Any

from deploy.errors import BadInput

NAME = "bom.json"
NO_DATE = "1980-01-01T00:00:00+00:00"


def build(
    name: str, report: Mapping[str, Any], digests: Mapping[str, str], model_file: str
) -> bytes:
    """The bill of the archive of model `name`.

    Args:
        name: the model's.
        report: the artifact's report.json; a hand-written one may lack anything.
        digests: SHA-256 of every other packed file.
        model_file: the name of the one that is served.

    Raises:
        BadInput: CycloneDX's library is missing.
    """
    try:
        from cyclonedx.model import HashAlgorithm, HashType
        from cyclonedx.model.bom import Bom, BomMetaData
        from cyclonedx.model.component import Component, ComponentType
        from cyclonedx.output import make_outputter
        from cyclonedx.schema import OutputFormat, SchemaVersion
    except ImportError as error:
        raise BadInput(f"{error}: pip install 'marpress[serve]', or run `make setup`") from error

    def hashed(file: str) -> list[Any]:
        return [HashType(alg=HashAlgorithm.SHA_256, content=digests[file])]

    data, licences = (report.get(key) or {} for key in ("data", "licences"))
    model = Component(
        type=ComponentType.MACHINE_LEARNING_MODEL,
        name=name,
        bom_ref=f"model:{name}",
        hashes=hashed(model_file),
        licenses=_licence(licences.get("weights")),
    )
    parts = [
        Component(type=ComponentType.FILE, name=file, bom_ref=f"file:{file}", hashes=hashed(file))
        for file in sorted(digests)
    ]
    parts += _packages(report)
    if data.get("name"):
        parts.append(
            Component(
                type=ComponentType.DATA,
                name=data["name"],
                bom_ref="data",
                version=str(data.get("fingerprint", ""))[:12] or None,
                description=data.get("source"),
                licenses=_licence(licences.get("data")),
            )
        )
    created = datetime.datetime.fromisoformat(str(report.get("created") or NO_DATE))
    listed = "".join(f"{digests[file]}  {file}\n" for file in sorted(digests))
    bom = Bom(
        serial_number=uuid.uuid5(uuid.NAMESPACE_URL, hashlib.sha256(listed.encode()).hexdigest()),
        metadata=BomMetaData(component=model, timestamp=created, tools=_tools(report)),
        components=parts,
    )
    bom.register_dependency(model, parts)
    written = make_outputter(bom, OutputFormat.JSON, SchemaVersion.V1_6).output_as_string()
    found = json.loads(written)
    # The library does not know this part of the schema.
    found["metadata"]["component"]["modelCard"] = _model_card(report)
    return (json.dumps(found, indent=1, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _packages(report: Mapping[str, Any]) -> list[Any]:
    """What the model was made and measured with."""
    from cyclonedx.model.component import Component, ComponentType
    from packageurl import PackageURL

    licences = report.get("package_licences") or {}
    found = []
    for package, version in sorted((report.get("versions") or {}).items()):
        if package == "python":
            kind, url = ComponentType.PLATFORM, None
        else:
            kind, url = ComponentType.LIBRARY, PackageURL("pypi", None, package, version)
        found.append(
            Component(
                type=kind,
                name=package,
                version=version,
                bom_ref=f"package:{package}",
                purl=url,
                licenses=_licence(licences.get(package)),
            )
        )
    return found


def _tools(report: Mapping[str, Any]) -> Any:
    """What measured the model and wrote the report."""
    from cyclonedx.model import HashAlgorithm, HashType
    from cyclonedx.model.component import Component, ComponentType
    from cyclonedx.model.tool import ToolRepository

    harness = report.get("harness")
    if not harness:
        return ToolRepository()
    measured_by = Component(
        type=ComponentType.APPLICATION,
        name=harness["name"],
        version=harness["version"],
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=harness["sha256"])],
    )
    return ToolRepository(components=[measured_by])


def _licence(stated: str | None) -> list[Any]:
    """An SPDX identifier or expression as such, other words by name; nothing for nothing stated."""
    from cyclonedx.contrib.license.factories import LicenseFactory

    if not stated or stated.startswith("unknown"):
        return []
    return [LicenseFactory().make_from_string(stated)]


def _model_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """The model's card: its task, its data and what it scored, on how many samples."""
    card: dict[str, Any] = {"modelParameters": {}}
    if report.get("task"):
        card["modelParameters"]["task"] = report["task"]
    if (report.get("data") or {}).get("name"):
        card["modelParameters"]["datasets"] = [{"ref": "data"}]
    name = (report.get("metric") or {}).get("name")
    rows = [(title, report.get(title) or {}) for title in ("original", "final")]
    measured = [
        {
            "type": name,
            "value": f"{row[name]:.6g}",
            "slice": f"{title}, {row['samples']} held-out samples",
            "confidenceInterval": {
                "lowerBound": f"{row['ci95'][0]:.6g}",
                "upperBound": f"{row['ci95'][1]:.6g}",
            },
        }
        for title, row in rows
        if name in row and "ci95" in row
    ]
    if measured:
        card["quantitativeAnalysis"] = {"performanceMetrics": measured}
    return card
