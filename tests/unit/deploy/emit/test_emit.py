"""What other servers need, read as they read it; Triton's backend is run against a stand-in."""

import importlib.util
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml

from deploy.__main__ import main
from deploy.adopt.adopt import adopt
from deploy.emit import parts
from deploy.service.bundle import Settings
from tests.unit.deploy.adopt import foreign
from tests.unit.deploy.compat import examples

CONFIG = "minWorkers: 2\nbatchSize: 4\nmaxBatchDelay: 5\n"

# What Triton gives its Python backends, as far as ours uses it.
UTILS = """
class Tensor:
    def __init__(self, name, values):
        self.name, self.values = name, values

    def as_numpy(self):
        return self.values


class InferenceResponse:
    def __init__(self, output_tensors):
        self.tensors = {tensor.name: tensor.values for tensor in output_tensors}


def get_input_tensor_by_name(request, name):
    return request.get(name)
"""
ASK = """
import json, sys
import numpy as np
import triton_python_backend_utils as triton
import model

config = {"parameters": {"archive": {"string_value": sys.argv[1]}}}
backend = model.TritonPythonModel()
backend.initialize({"model_config": json.dumps(config)})


def request(*bodies):
    rows = [[body] for body in bodies]
    kinds = [[b"application/json"] for _ in bodies]
    return {
        "BODY": triton.Tensor("BODY", np.array(rows, dtype=object)),
        "CONTENT_TYPE": triton.Tensor("CONTENT_TYPE", np.array(kinds, dtype=object)),
    }


answers = backend.execute([request(b"[1, 2, 4]", b"[1, 0, 0]"), request(b"[5, 5, 5]")])
found = [
    [[row[0].decode() if isinstance(row[0], bytes) else int(row[0]) for row in tensor]
     for tensor in (a.tensors["BODY"], a.tensors["STATUS"], a.tensors["CONTENT_TYPE"])]
    for a in answers
]
backend.finalize()
print("\\n" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emit")
    handler, content, model = examples.files()["function"]
    content = {**content, "model-config.yaml": CONFIG}
    path = foreign.write(folder, "Sum_s", handler, content, configFile="model-config.yaml", **model)
    assert adopt(path, folder / "store").archive is not None
    return folder / "store"


@pytest.fixture
def emitted(store: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    target, *options = request.param
    command = ["emit", target, "Sum_s", "--model-store", str(store), "--output"]
    assert main([*command, str(tmp_path / "out"), *options]) == 0
    return tmp_path / "out"


@pytest.mark.parametrize("emitted", [["triton"]], indirect=True)
def test_tritons_configuration(emitted: Path) -> None:
    spec = importlib.util.find_spec("tritonclient")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs tritonclient")
    path = Path(spec.submodule_search_locations[0]) / "grpc" / "model_config_pb2.py"
    from google.protobuf import text_format

    described = importlib.util.spec_from_file_location("model_config_pb2", path)
    assert described is not None
    assert described.loader is not None
    module = importlib.util.module_from_spec(described)
    described.loader.exec_module(module)
    config = text_format.Parse(
        (emitted / "Sum_s" / "config.pbtxt").read_text(), module.ModelConfig()
    )
    assert (config.name, config.backend, config.max_batch_size) == ("Sum_s", "python", 4)
    assert [(i.name, i.data_type, list(i.dims), i.optional) for i in config.input] == [
        ("BODY", module.TYPE_STRING, [1], False),
        ("CONTENT_TYPE", module.TYPE_STRING, [1], True),
        ("HEADERS", module.TYPE_STRING, [1], True),
    ]
    assert [o.name for o in config.output] == ["BODY", "STATUS", "CONTENT_TYPE"]
    assert config.dynamic_batching.max_queue_delay_microseconds == 5000
    assert config.instance_group[0].count == 2
    assert config.parameters["archive"].string_value == "Sum_s.mar"


@pytest.mark.parametrize("emitted", [["triton"]], indirect=True)
def test_tritons_backend_answers(emitted: Path, tmp_path: Path) -> None:
    """In a process that sees nothing of this repository but what was emitted."""
    version = emitted / "Sum_s" / "1"
    (tmp_path / "triton_python_backend_utils.py").write_text(UTILS)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, "Sum_s.mar"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{version}:{tmp_path}", "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert [json.loads(body) for body in first[0]] == [[7.0, 14.0], [1.0, 2.0]]
    assert [json.loads(body) for body in second[0]] == [[15.0, 30.0]]
    assert first[1:] == [[200, 200], ["application/json"] * 2]


@pytest.mark.parametrize(
    "emitted",
    [["kserve", "--image", "example/sums:1", "--storage-uri", "s3://bucket/sums"]],
    indirect=True,
)
def test_kserves_manifests(emitted: Path) -> None:
    runtime = yaml.safe_load((emitted / "runtime.yaml").read_text())
    service = yaml.safe_load((emitted / "inference-service.yaml").read_text())
    assert (runtime["apiVersion"], runtime["kind"]) == (
        "serving.kserve.io/v1alpha1",
        "ServingRuntime",
    )
    assert (service["apiVersion"], service["kind"]) == (
        "serving.kserve.io/v1beta1",
        "InferenceService",
    )
    model = service["spec"]["predictor"]["model"]
    assert model["runtime"] == runtime["metadata"]["name"] == "sum-s-runtime"
    assert model["modelFormat"]["name"] == runtime["spec"]["supportedModelFormats"][0]["name"]
    assert model["protocolVersion"] in runtime["spec"]["protocolVersions"]
    assert model["storageUri"] == "s3://bucket/sums"
    (container,) = runtime["spec"]["containers"]
    assert container["name"] == "kserve-container"
    assert container["image"] == "example/sums:1"
    assert "/mnt/models/Sum_s.mar" in container["args"]
    assert container["readinessProbe"]["httpGet"]["path"] == "/v2/health/ready"
    assert (emitted / "image" / "Dockerfile").is_file()


@pytest.mark.parametrize("emitted", [["docker", "--allow-host", "api.example"]], indirect=True)
def test_a_dockerfile_copies_what_is_there(emitted: Path) -> None:
    lines = (emitted / "Dockerfile").read_text().splitlines()
    for line in lines:
        if line.startswith("COPY"):
            assert (emitted / line.split()[1]).exists()
    assert [line.split()[0] for line in lines if line.startswith(("FROM", "USER", "CMD"))] == [
        "FROM",
        "USER",
        "CMD",
    ]
    command = json.loads(lines[-1].removeprefix("CMD "))
    assert command[:5] == ["python", "-m", "deploy", "serve-archive", "/service/Sum_s.mar"]
    assert command[-2:] == ["--allow-host", "api.example"]
    pins = (emitted / "requirements.txt").read_text().splitlines()
    assert all("==" in pin for pin in pins)
    assert "torch" in [pin.partition("==")[0] for pin in pins]
    assert (emitted / "app" / "deploy" / "compat" / "loader.py").is_file()
    assert not list(emitted.rglob("__pycache__"))


@pytest.mark.parametrize("emitted", [["sagemaker"]], indirect=True)
def test_sagemakers_contract(emitted: Path) -> None:
    script = emitted / "serve"
    assert script.stat().st_mode & 0o111
    assert subprocess.run(["sh", "-n", str(script)], check=False).returncode == 0
    assert "/opt/ml/model/*.mar" in script.read_text()
    assert '"${SAGEMAKER_BIND_TO_PORT:-8080}"' in script.read_text()
    assert (emitted / "Dockerfile").read_text().endswith('CMD ["serve"]\n')
    with tarfile.open(emitted / "model.tar.gz") as packed:
        assert packed.getnames() == ["Sum_s.mar"]


def test_a_package_has_one_line() -> None:
    listed = ("PyYAML==6.0.1", "numpy<2", "typing_extensions")
    found = parts.Parts(Path("x.mar"), "x", "1", Settings(), listed)
    pins = parts.pinned(found).splitlines()
    assert [pin for pin in pins if "yaml" in pin.lower()] == ["PyYAML==6.0.1"]
    assert [pin.partition("==")[0] for pin in pins if pin.startswith("numpy")] == ["numpy"]
    assert "typing_extensions" in pins


def test_nothing_is_overwritten(store: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").write_text("x")
    command = ["emit", "docker", "Sum_s", "--model-store", str(store), "--output", str(tmp_path)]
    assert main(command) == 2
    assert "is not empty" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main(["emit", "docker", "none", "--model-store", str(store)]) == 2
