"""What a SageMaker container is told by its environment."""

import pytest

from deploy.errors import BadInput
from deploy.service import sagemaker


def test_the_port():
    assert sagemaker.port({}) == 8080
    assert sagemaker.port({"SAGEMAKER_BIND_TO_PORT": "9000"}) == 9000
    for text in ("x", "0", "70000"):
        with pytest.raises(BadInput, match="is no port"):
            sagemaker.port({"SAGEMAKER_BIND_TO_PORT": text})


def test_the_archives(tmp_path):
    environment = {"SM_MODEL_DIR": str(tmp_path)}
    with pytest.raises(BadInput, match=r"model\.tar\.gz"):
        sagemaker.archives(environment)
    for name in ("b.mar", "a.mar", "notes.txt"):
        (tmp_path / name).touch()
    assert [path.name for path in sagemaker.archives(environment)] == ["a.mar", "b.mar"]
