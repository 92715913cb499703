"""Real archives in this process: load, answer, versions, unload."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import psutil
import pytest
from prometheus_client.parser import text_string_to_metric_families

from deploy.archive import mar
from deploy.errors import BadInput
from deploy.service.failure import Failure
from tests.integration import quadrant
from tests.unit.deploy.service.client import Running

ROOT = Path(__file__).resolve().parents[4]
PICTURE = quadrant.picture(1)


@pytest.fixture
def models(loop):
    made = Running(loop)
    yield made
    assert made.close()


@pytest.fixture(scope="module")
def sealed(tmp_path_factory):
    """Versions 1 and 2 of quadrant, whose handlers differ: 2 answers in capitals."""
    folder = tmp_path_factory.mktemp("sealed")
    artifact = quadrant.make(folder / "artifacts")
    one = mar.seal(artifact, folder / "1", version="1").path
    changed = folder / "handlers"
    shutil.copytree(ROOT / "handlers", changed, ignore=shutil.ignore_patterns("__pycache__"))
    source = changed / "image_classifier.py"
    text = source.read_text()
    assert '"label": self.card.labels[index]' in text
    source.write_text(text.replace("self.card.labels[index]", "self.card.labels[index].upper()"))
    two = mar.seal(artifact, folder / "2", version="2", handlers=changed).path
    return one, two


def label(models, version=None):
    answer = models.ask("quadrant", version, {"body": PICTURE}, {})
    assert answer.status == 200, answer.body
    return next(word for word in ("top right", "TOP RIGHT") if word.encode() in answer.body)


def test_two_versions_with_other_code_answer_side_by_side(models, sealed):
    for path in sealed:
        models.register(path)
    assert label(models) == label(models, "1") == "top right"
    assert label(models, "2") == "TOP RIGHT"
    models.set_default("quadrant", "2")
    assert label(models) == "TOP RIGHT"
    assert [m.bundle.version for m in models.versions("quadrant")] == ["2", "1"]
    models.unregister("quadrant", "1")
    with pytest.raises(Failure, match="version: 1 does not exist"):
        label(models, "1")
    assert label(models) == "TOP RIGHT"


def test_the_default_goes_last_and_names_come_free_again(models, sealed):
    for path in sealed:
        models.register(path)
    with pytest.raises(Failure, match="Cannot remove default version") as caught:
        models.unregister("quadrant")
    assert caught.value.status == 403
    with pytest.raises(Failure, match="already registered") as caught:
        models.register(sealed[0])
    assert caught.value.status == 409
    models.unregister("quadrant", "2")
    models.unregister("quadrant")
    assert models.names() == []
    with pytest.raises(Failure) as caught:
        models.get("quadrant")
    assert (caught.value.status, caught.value.type) == (404, "ModelNotFoundException")
    models.register(sealed[1])
    assert label(models) == "TOP RIGHT"


def test_unloading_leaves_no_folder_and_no_process(loop, sealed, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    models = Running(loop)
    model = models.register(sealed[0], workers=2)
    (folder,) = tmp_path.iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(folder.glob("*.mar"))
    pids = {slot.pid for slot in model.pool.slots}
    assert len(pids) == 2
    assert os.getpid() not in pids
    assert models.close()
    assert not [pid for pid in pids if psutil.pid_exists(pid)]
    assert not list(tmp_path.iterdir())


def test_requests_that_wait_are_answered_before_a_version_goes(models, sealed, loop):
    model = models.register(sealed[0])

    async def asked():
        jobs = [model.pool.submit({"body": PICTURE}, {}) for _ in range(40)]
        await models.models.unregister("quadrant")
        return [await job.answer() for job in jobs]

    assert [answer.status for answer in loop.do(asked())] == [200] * 40
    with pytest.raises(Failure):
        label(models)


def test_a_batch_of_good_and_bad_requests_through_the_real_handler(models, sealed):
    model = models.register(sealed[0])
    bodies = [PICTURE, b"no picture", PICTURE, b"", quadrant.picture(3)] * 8
    answers = models.answers(model, [{"body": body} for body in bodies])
    assert [answer.status for answer in answers] == [200, 400, 200, 400, 200] * 8
    samples = {
        (sample.name, sample.labels.get("Status")): sample
        for family in text_string_to_metric_families(models.metrics.text())
        for sample in family.samples
    }
    errors = samples["marpress_errors_total", "400"]
    assert (errors.labels["ModelName"], errors.labels["Level"]) == ("quadrant", "Model")
    batches = samples["marpress_batch_size_count", None].value
    assert batches < 24, "nothing was batched"


def test_what_is_no_archive_is_refused_and_leaves_nothing(models, sealed, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    damaged = tmp_path / "damaged.mar"
    damaged.write_bytes(sealed[0].read_bytes()[:-200])
    for path, message in ((damaged, "damaged.mar"), (tmp_path / "none.mar", "no archive at")):
        with pytest.raises(BadInput, match=message):
            models.register(path)
    assert [p.name for p in tmp_path.iterdir()] == ["damaged.mar"]
    assert models.names() == []


def test_a_model_that_does_not_load_says_why(models, tmp_path):
    artifact = quadrant.make(tmp_path / "artifacts")
    card = json.loads((artifact / "model.json").read_text())
    card["model"]["quantized_engine"] = "abacus"
    quadrant.write(artifact / "model.json", card)
    path = mar.seal(artifact, tmp_path / "store").path
    with pytest.raises(Failure, match="no quantized engine 'abacus'") as caught:
        models.register(path)
    assert caught.value.status == 500
    assert models.names() == []


def test_a_handlers_folder_in_place_of_the_archives(sealed, loop):
    changed = sealed[1].parents[1] / "handlers"
    models = Running(loop, handlers=changed)
    try:
        models.register(sealed[0])
        assert label(models) == "TOP RIGHT"
    finally:
        models.close()
    with pytest.raises(BadInput, match=r"no base\.py"):
        Running(loop, handlers=sealed[0].parent).register(sealed[0])
