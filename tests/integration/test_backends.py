"""Other engines behind the same handler: on a real TorchServe and in the microservice."""

import base64
import json
import math
import shutil
from pathlib import Path

import pytest
import requests

from deploy.archive import mar
from deploy.errors import WorkerDied
from tests.integration import engines, quadrant
from tests.integration.service import serving
from tests.integration.torchserve import Running

PICTURES = [(label, kind) for label in range(4) for kind in ("PNG", "JPEG")]
ENDINGS = {"onnx": "onnx", "openvino": "xml"}
TOLERANCE = 1e-5  # of a probability: the engines sum in another order


def probabilities(reply: dict) -> list[float]:
    """By label index, from an answer of all four labels."""
    ranked = reply["predictions"]
    assert len(ranked) == 4
    return [one["probability"] for one in sorted(ranked, key=lambda one: one["index"])]


@pytest.fixture(scope="module", params=["onnx", "pt2", "openvino"])
def sealed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    artifact = engines.make(folder / "artifacts", request.param)
    return mar.seal(artifact, folder / "model_store").path


def test_torchserve_answers_as_with_torchscript(served: Running, store: Path, sealed: Path) -> None:
    shutil.copy(sealed, store)
    name = sealed.stem
    served.management.register(sealed.name)
    try:
        (entry,) = served.management.describe(name)
        assert [worker["status"] for worker in entry["workers"]] == ["READY"]
        pids = served.pids(name)
        for label, kind in PICTURES:
            body = quadrant.picture(label, kind, side=60)
            given = served.inference.predict(name, body, f"image/{kind.lower()}")
            expected = served.inference.predict("quadrant", body, f"image/{kind.lower()}")
            assert given["predictions"][0]["index"] == label
            assert probabilities(given) == pytest.approx(probabilities(expected), abs=TOLERANCE)
        many = [{"b64": one} for one in _base64(range(4))]
        reply = requests.post(
            f"{served.settings.inference}/predictions/{name}",
            json={"instances": many * 3},
            headers=served.header(),
            timeout=30,
        )
        assert [a["predictions"][0]["index"] for a in reply.json()] == [0, 1, 2, 3] * 3
        assert served.pids(name) == pids, "a worker was restarted"
    finally:
        served.management.unregister(name)


def test_the_microservice_answers_as_torchserve(
    served: Running, sealed: Path, tmp_path: Path
) -> None:
    with serving(tmp_path, sealed) as service:
        for label, kind in PICTURES:
            body = quadrant.picture(label, kind, side=60)
            reply = requests.post(
                f"{service.address}/predictions/{sealed.stem}", data=body, timeout=60
            )
            assert reply.status_code == 200, reply.text
            expected = served.inference.predict("quadrant", body)
            assert probabilities(reply.json()) == pytest.approx(
                probabilities(expected), abs=TOLERANCE
            )


def test_a_broken_file_is_named_when_the_worker_dies(served: Running, store: Path) -> None:
    artifact = quadrant.make(served.workdir / "broken", name="quadrant-broken")
    (artifact / "model.pt").unlink()
    (artifact / "model.onnx").write_bytes(b"no model at all")
    engines.set_model(artifact, "model.onnx", [])
    mar.seal(artifact, store)
    with pytest.raises(WorkerDied, match=r"model\.onnx does not load in ONNX Runtime"):
        served.management.register("quadrant-broken.mar")


def test_the_workers_measure_and_serve_the_fastest(
    served: Running, store: Path, tmp_path: Path
) -> None:
    artifact = quadrant.make(tmp_path, name="quadrant-both", workers=2)
    report = quadrant.report()
    report.update(digest="one", exports={})
    for engine in ("onnx", "openvino"):
        made = engines.make(tmp_path / "made", engine)
        of_artifact = shutil.ignore_patterns("*.json", "samples")
        shutil.copytree(made, artifact / "exports" / engine, ignore=of_artifact)
        file = json.loads((made / "model.json").read_text())["model"]["file"]
        report["exports"][engine] = {
            "file": f"exports/{engine}/{file}",
            "agreement": 1.0,
            "served_drop": 0.0,
            "digest": "one",
        }
    quadrant.write(artifact / "report.json", report)
    mar.seal(artifact, store, engines=("onnx", "openvino"))
    served.management.register("quadrant-both.mar")
    try:
        verdicts = []
        for _ in range(6):  # either of the two workers answers
            (entry,) = served.management.describe("quadrant-both", customized=True)
            verdicts.append(entry["customizedMetadata"]["engine"])
        engine = verdicts[0]
        assert verdicts == [engine] * 6, "the workers disagree"
        assert engine["skipped"] == {}
        alternatives = [f"exports/{name}/model.{end}" for name, end in ENDINGS.items()]
        assert list(engine["milliseconds"]) == ["model.pt", *alternatives]
        cost = {file: math.prod(times) for file, times in engine["milliseconds"].items()}
        assert cost[engine["file"]] <= cost["model.pt"]
        for label, kind in PICTURES:
            body = quadrant.picture(label, kind, side=60)
            given = served.inference.predict("quadrant-both", body)
            expected = served.inference.predict("quadrant", body)
            assert probabilities(given) == pytest.approx(probabilities(expected), abs=TOLERANCE)
    finally:
        served.management.unregister("quadrant-both")


def _base64(labels: range) -> list[str]:
    return [base64.b64encode(quadrant.picture(label)).decode() for label in labels]
