"""Archives: the same bytes at any hour, everything inside, and clear refusals."""

import ast
import errno
import hashlib
import io
import json
import os
import subprocess
import zipfile
from pathlib import Path

import pytest
import torch

from deploy.archive import mar as archive
from deploy.archive.store import in_use
from deploy.archive.verify import Archive, verify
from deploy.errors import BadInput, DeployError, GateFailed, NotAsReported
from handlers.seal import LIST, MANIFEST
from tests.integration import quadrant

# What images need among others, and what only texts and speech do.
NEEDED = {"__init__", "base", "backend", "card", "image_classifier", "image_header", "images"}
FOREIGN = {"text_classifier", "texts", "windows", "speech_recognizer", "audio", "vad"}


def seal(artifact: Path, store: Path, **options: object) -> Archive:
    """Seal with the repository's handlers."""
    return archive.seal(artifact, store, **options)  # type: ignore[arg-type]


def entries(path: Path) -> dict[str, bytes]:
    """Everything inside an archive."""
    with zipfile.ZipFile(path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


def test_everything_a_worker_needs_is_inside(artifact: Path, tmp_path: Path, root: Path) -> None:
    sealed = seal(artifact, tmp_path / "store")
    inside = entries(sealed.path)
    for name in ("model.pt", "model.json", "report.json"):
        assert inside[name] == (artifact / name).read_bytes()
    modules = {name for name in inside if name.startswith("handlers/")}
    stems = {Path(name).stem for name in modules}
    assert stems >= NEEDED and not stems & FOREIGN
    assert all(inside[name] == (root / name).read_bytes() for name in modules)
    assert inside["model-config.yaml"].decode().splitlines() == [
        "minWorkers: 1",
        "maxWorkers: 1",
        "batchSize: 8",
        "maxBatchDelay: 20",
        "responseTimeout: 30",
        "startupTimeout: 120",
    ]
    model = json.loads(inside["MAR-INF/MANIFEST.json"])["model"]
    assert model == {
        "modelName": "quadrant",
        "serializedFile": "model.pt",
        "handler": "image_classifier.py",
        "modelVersion": sealed.version,
        "configFile": "model-config.yaml",
    }


def test_what_is_reported_is_what_was_written(artifact: Path, tmp_path: Path) -> None:
    sealed = seal(artifact, tmp_path / "store")
    data = sealed.path.read_bytes()
    assert (sealed.bytes, sealed.sha256) == (len(data), hashlib.sha256(data).hexdigest())
    assert verify(sealed.path) == sealed
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["quadrant.mar"]


def test_an_hour_later_on_copied_files_it_is_the_same_archive(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    raw = []
    rewrite = archive._rewrite

    def keep(made: Path, target: Path) -> None:
        raw.append(made.read_bytes())
        rewrite(made, target)

    monkeypatch.setattr(archive, "_rewrite", keep)
    monkeypatch.setenv("TZ", "UTC")
    first = seal(artifact, tmp_path / "one")
    monkeypatch.setenv("TZ", "UTC-1")  # the archiver writes local time: an hour later
    for path in artifact.rglob("*"):
        os.utime(path, (10**9, 10**9))
        path.chmod(0o700)
    second = seal(artifact, tmp_path / "two")
    assert raw[0] != raw[1], "torch-model-archiver alone would do: this test proves nothing"
    assert first.sha256 == second.sha256


def test_other_content_is_another_version(artifact: Path, tmp_path: Path) -> None:
    first = seal(artifact, tmp_path / "store")
    assert not archive.is_stale(artifact, first.path)
    report = json.loads((artifact / "report.json").read_text())
    quadrant.write(artifact / "report.json", {**report, "seed": 2})
    assert archive.is_stale(artifact, first.path)
    assert seal(artifact, tmp_path / "store").version != first.version
    assert not archive.is_stale(artifact, first.path)


def test_a_given_version_changes_nothing_else(artifact: Path, tmp_path: Path) -> None:
    plain = entries(seal(artifact, tmp_path / "a").path)
    named = seal(artifact, tmp_path / "b", version="2.0-rc1")
    assert named.version == "2.0-rc1"
    for name in (MANIFEST, LIST):
        del plain[name]
    assert {k: v for k, v in entries(named.path).items() if k not in (MANIFEST, LIST)} == plain
    assert not archive.is_stale(artifact, named.path)


@pytest.mark.parametrize("version", ["a/b", " ", "../1"])
def test_a_version_that_is_no_path_segment_is_refused(
    artifact: Path, tmp_path: Path, version: str
) -> None:
    with pytest.raises(BadInput, match="version"):
        seal(artifact, tmp_path / "store", version=version)


def test_a_failed_gate_is_refused_unless_forced(tmp_path: Path) -> None:
    artifact = quadrant.make(tmp_path, passed=False)
    with pytest.raises(GateFailed, match=r"dropped by 0\.0075 where .*--force"):
        seal(artifact, tmp_path / "store")
    assert not (tmp_path / "store").exists()
    forced = seal(artifact, tmp_path / "store", force=True)
    assert json.loads(entries(forced.path)["report.json"])["gate"]["passed"] is False


def test_a_failed_build_leaves_the_good_archive(artifact: Path, tmp_path: Path) -> None:
    good = seal(artifact, tmp_path / "store")
    (artifact / "model.pt").write_bytes(b"half a mod")
    with pytest.raises(NotAsReported, match=r"model.pt is not the file"):
        seal(artifact, tmp_path / "store")
    assert verify(good.path) == good
    assert [p.name for p in (tmp_path / "store").iterdir()] == ["quadrant.mar"]


def test_pickled_weights_are_no_model(artifact: Path, tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, artifact / "model.pt")
    quadrant.write(artifact / "report.json", quadrant.report())
    with pytest.raises(BadInput, match=r"a state_dict or a pickled module\?"):
        seal(artifact, tmp_path / "store")


def test_the_archive_before_stays_beside(artifact: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = seal(artifact, store)
    content = first.path.read_bytes()
    report = json.loads((artifact / "report.json").read_text())
    quadrant.write(artifact / "report.json", {**report, "seed": 2})
    second = seal(artifact, store)
    assert verify(store / f"quadrant-{first.version}.mar").sha256 == first.sha256
    assert verify(store / "quadrant.mar").sha256 == second.sha256
    assert (store / f"quadrant-{first.version}.mar").read_bytes() == content
    # One version over other content keeps both, too.
    third = seal(artifact, store, version=second.version, force=True)
    quadrant.write(artifact / "report.json", {**report, "seed": 3})
    seal(artifact, store, version=second.version)
    beside = store / f"quadrant-{second.version}-{third.sha256[:12]}.mar"
    assert verify(beside).sha256 == third.sha256
    assert in_use(store) == ["quadrant.mar"]


def test_another_models_archive_is_not_overwritten(artifact: Path, tmp_path: Path) -> None:
    other = quadrant.make(tmp_path / "more", name="quadrant-1.0")
    taken = seal(other, tmp_path / "store").path
    with pytest.raises(BadInput, match=r"archive of the model 'quadrant-1\.0'"):
        seal(artifact, tmp_path / "store", version="1.0", in_use=False)
    assert verify(taken).name == "quadrant-1.0"


def test_what_a_killed_process_left_is_swept(artifact: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    dead = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True)
    (store / f".quadrant.mar.{dead.stdout.strip()}").write_bytes(b"half")
    seal(artifact, store)
    assert [path.name for path in store.iterdir()] == ["quadrant.mar"]


def test_extra_files_of_the_card_travel(artifact: Path, tmp_path: Path) -> None:
    (artifact / "data").mkdir()
    (artifact / "data" / "words.txt").write_text("a b c")
    card = json.loads((artifact / "model.json").read_text())
    quadrant.write(artifact / "model.json", {**card, "files": ["data/words.txt"]})
    assert entries(seal(artifact, tmp_path / "store").path)["data/words.txt"] == b"a b c"


def test_the_users_samples_stay_in_the_artifact(artifact: Path, tmp_path: Path) -> None:
    (artifact / "examples.json").write_text('["a text of theirs"]')
    found = entries(seal(artifact, tmp_path).path)
    assert not any(b"a text of theirs" in content for content in found.values())
    assert not any(name.startswith(("examples", "samples", "report.html")) for name in found)


@pytest.mark.parametrize(
    "name",
    ["image_classifier.py", "model-config.yaml", "handlers/base.py", "MAR-INF/MANIFEST.json"],
)
def test_an_extra_file_cannot_take_the_place_of_ours(
    artifact: Path, tmp_path: Path, name: str
) -> None:
    (artifact / name).parent.mkdir(exist_ok=True)
    (artifact / name).write_text("import os")
    card = json.loads((artifact / "model.json").read_text())
    quadrant.write(artifact / "model.json", {**card, "files": [name]})
    with pytest.raises(BadInput, match="name of a file that the archive adds"):
        seal(artifact, tmp_path / "store")


def test_an_unknown_handler_names_the_known_ones(artifact: Path, tmp_path: Path) -> None:
    card = json.loads((artifact / "model.json").read_text())
    quadrant.write(artifact / "model.json", {**card, "handler": "fortune_teller"})
    with pytest.raises(BadInput, match=r"no handler .*fortune_teller.py.*image_classifier"):
        seal(artifact, tmp_path / "store")


def test_the_entry_has_one_class_and_puts_the_archive_first(artifact: Path, tmp_path: Path) -> None:
    entry = entries(seal(artifact, tmp_path / "store").path)["image_classifier.py"].decode()
    classes = [n.name for n in ast.parse(entry).body if isinstance(n, ast.ClassDef)]
    assert classes == ["ImageClassifier"]
    assert entry.index("sys.path.insert(0") < entry.index("from handlers import")


class TestVerify:
    """What `verify` refuses."""

    @pytest.fixture
    def mar(self, artifact: Path, tmp_path: Path) -> Path:
        """A good archive to damage."""
        return seal(artifact, tmp_path / "store").path

    def rewrite(self, mar: Path, **changes: bytes | None) -> None:
        inside: dict[str, bytes | None] = {**entries(mar), **changes}
        with zipfile.ZipFile(mar, "w") as packed:
            for name, data in inside.items():
                if data is not None:
                    packed.writestr(name, data)

    def test_a_file_that_is_not_there(self, tmp_path: Path) -> None:
        with pytest.raises(BadInput, match=r"run \./build_mar.sh nobody"):
            verify(tmp_path / "nobody.mar")

    def test_a_truncated_archive(self, mar: Path) -> None:
        mar.write_bytes(mar.read_bytes()[:-100])
        with pytest.raises(BadInput, match="its end is missing"):
            verify(mar)

    def test_a_file_that_is_no_archive(self, mar: Path) -> None:
        mar.write_bytes(mar.read_bytes()[:1000])
        with pytest.raises(BadInput, match="not a readable archive"):
            verify(mar)

    def test_two_faces(self, mar: Path) -> None:
        """An entry that a reader from the start meets, and one from the end does not."""
        hidden = io.BytesIO()
        with zipfile.ZipFile(hidden, "w") as packed:
            packed.writestr("image_classifier.py", b"import os")
        data = hidden.getvalue()
        mar.write_bytes(data[: data.rindex(b"PK\x01\x02")] + mar.read_bytes())
        with zipfile.ZipFile(mar) as packed:
            assert packed.testzip() is None
        with pytest.raises(BadInput, match="not laid out"):
            verify(mar)

    def test_an_entry_twice(self, mar: Path) -> None:
        with zipfile.ZipFile(mar, "a") as packed, pytest.warns(UserWarning, match="Duplicate"):
            packed.writestr("model.json", b"{}")
        with pytest.raises(BadInput, match=r"holds 'model.json' and 'model.json'"):
            verify(mar)

    def test_a_flipped_byte_in_the_model(self, mar: Path) -> None:
        data = bytearray(mar.read_bytes())
        with zipfile.ZipFile(mar) as packed:
            data[packed.getinfo("model.pt").header_offset + 400] ^= 1
        mar.write_bytes(data)
        with pytest.raises(BadInput, match=r"damaged at model\.pt"):
            verify(mar)

    @pytest.mark.parametrize("name", ["../evil.py", "/etc/evil", "a\\..\\b", "x/../../y"])
    def test_a_path_that_leaves_the_archive(self, mar: Path, name: str) -> None:
        self.rewrite(mar, **{name: b"boo"})
        with pytest.raises(BadInput, match="unsafe path"):
            verify(mar)

    @pytest.mark.parametrize("name", ["MAR-INF/MANIFEST.json", "model.json", "report.json"])
    def test_a_missing_part(self, mar: Path, name: str) -> None:
        self.rewrite(mar, **{name: None})
        with pytest.raises(BadInput, match=f"holds no {name}"):
            verify(mar)

    @pytest.mark.parametrize("name", ["model.pt", "image_classifier.py", "model-config.yaml"])
    def test_a_missing_file_of_the_manifest(self, mar: Path, name: str) -> None:
        self.rewrite(mar, **{name: None})
        with pytest.raises(BadInput, match=f"'{name}', not inside"):
            verify(mar)

    @pytest.mark.parametrize("text", [b"{", b"[]", b'{"model": {}}', b'{"model": 3}'])
    def test_a_manifest_without_sense(self, mar: Path, text: bytes) -> None:
        self.rewrite(mar, **{MANIFEST: text})
        with pytest.raises(DeployError, match="MANIFEST"):
            verify(mar)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_no_space_for_the_archiver_is_the_systems_refusal(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    fails = f"import os; raise OSError({code}, os.strerror({code}))"
    monkeypatch.setattr(archive, "ARCHIVER", fails)
    with pytest.raises(OSError) as caught:
        seal(artifact, tmp_path / "store")
    assert caught.value.errno == code
    assert not list((tmp_path / "store").iterdir())
