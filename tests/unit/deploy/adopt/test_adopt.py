"""Adopting: every format and kind of handler, and what is refused with its way out."""

import gzip
import io
import json
import os
import pickle
import random
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

from deploy.__main__ import main
from deploy.adopt import requirements
from deploy.adopt.adopt import Adopted, adopt
from deploy.archive import adopted, mar
from deploy.archive.verify import verify
from deploy.errors import BadInput, DeployError, Missing, Unsafe
from deploy.signing import beside
from tests.integration import quadrant
from tests.unit.deploy.adopt import foreign
from tests.unit.deploy.compat import examples

FINE = "def handle(data, context):\n    return data\n"


def made(folder: Path, name: str = "old", handler: str = "h.py", **files: bytes | str) -> Path:
    """An archive; `h_py` stands for h.py."""
    content = {key.replace("_", "."): value for key, value in files.items()}
    return foreign.write(folder, name, handler, content or {"h.py": FINE})


def kept(result: Adopted) -> dict[str, bytes]:
    assert result.archive is not None
    with zipfile.ZipFile(result.archive.path) as packed:
        return {name: packed.read(name) for name in packed.namelist()}


@pytest.mark.parametrize("name", examples.files())
def test_every_example_is_adopted(tmp_path: Path, name: str) -> None:
    handler, content, model = examples.files()[name]
    path = foreign.write(tmp_path, name, handler, content, **model)
    result = adopt(path, tmp_path / "store")
    result.check()
    entries = kept(result)
    for entry, data in content.items():
        assert entries[entry] == (data if isinstance(data, bytes) else data.encode())
    sealed = verify(tmp_path / "store" / f"{name}.mar")
    assert (sealed.name, sealed.version, sealed.adopted) == (name, "1.0", True)
    noted = json.loads(entries[adopted.MARK])
    assert noted["status"] == "adopted, not measured"
    assert noted["from"]["file"] == path.name
    assert "report.json" not in entries


def test_verify_shows_that_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert not adopted.is_marked(made(tmp_path)) and not adopted.is_marked(tmp_path)
    adopt(made(tmp_path), tmp_path / "store").check()
    assert adopted.is_marked(tmp_path / "store" / "old.mar")
    archive = str(tmp_path / "store" / "old.mar")
    assert main(["verify", archive]) == 0
    shown = capsys.readouterr().out
    assert "adopted, not measured" in shown and "accuracy" not in shown
    assert main(["verify", archive, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["adopted"] is True
    assert main(["evidence", archive, "--statement"]) == 2
    assert "statement.json: adopted, not measured" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["default", "zip-store", "tgz", "no-archive"])
def test_every_format_of_the_archiver(tmp_path: Path, form: str) -> None:
    (tmp_path / "answers.py").write_text(foreign.ANSWERS)
    (tmp_path / "extra.txt").write_text("beside")
    options = ["--extra-files", str(tmp_path / "extra.txt")]
    path = foreign.archiver(tmp_path, "answers", str(tmp_path / "answers.py"), form, *options)
    entries = kept(adopt(path, tmp_path / "store"))
    assert entries["extra.txt"] == b"beside"
    assert entries["answers.py"].decode() == foreign.ANSWERS


def test_the_same_archive_gives_the_same_bytes(tmp_path: Path) -> None:
    path = made(tmp_path)
    first, second = (adopt(path, tmp_path / store).archive for store in ("a", "b"))
    assert first is not None
    assert second is not None
    assert first.sha256 == second.sha256


def test_adopted_again_to_the_same_bytes_it_stays_signed(tmp_path: Path) -> None:
    path, store = made(tmp_path), tmp_path / "store"
    adopt(path, store)
    beside.signature(store / "old.mar").write_text("a signature")
    adopt(path, store)
    assert beside.signature(store / "old.mar").read_text() == "a signature"
    adopt(made(tmp_path, h_py=f"{FINE}# another\n"), store)
    assert not beside.signature(store / "old.mar").exists()


def test_install_is_for_versions_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def install(store: Path, listed: list[str]) -> Path:
        asked.append(listed)
        return store

    monkeypatch.setattr(requirements, "install", install)
    files: dict[str, bytes | str] = {"h.py": FINE, "r.txt": "numpy==1.0\n"}
    path = foreign.write(tmp_path, "old", "h.py", files, requirementsFile="r.txt")
    assert adopt(path, tmp_path / "store").packages is None
    assert adopt(path, tmp_path / "store", install=True).packages is not None
    assert asked == [["numpy==1.0"]]


def test_a_version_that_is_missing_is_the_archivers_default(tmp_path: Path) -> None:
    path = foreign.write(tmp_path, "old", "h.py", {"h.py": FINE}, modelVersion=None)
    result = adopt(path, tmp_path / "store")
    assert result.archive is not None
    assert result.archive.version == "1.0"


@pytest.mark.parametrize(
    ("handler", "files", "model", "words"),
    [
        ("h.py", {"h.py": "print 'old'\n"}, {}, "Python 2 in line 1"),
        ("h.py", {"h.py": "def handle(:\n"}, {}, "cannot be read in line 1"),
        ("gone.py", {"h.py": FINE}, {}, "there is no such file inside"),
        ("dali_image_classifier", {"h.py": FINE}, {}, "DALI"),
        ("h.py", {"h.py": "class A: pass\nclass B: pass\n"}, {}, "one class, and defines A, B"),
        ("h:other", {"h.py": FINE}, {}, "function other or one class, and defines none"),
        ("h.py", {"h.py": FINE}, {"runtime": "LSP"}, r"C\+\+ runtime"),
        ("h.py", {"h.py": FINE}, {"runtime": "java"}, "only Python 3 is taken"),
        ("h.py", {"h.py": FINE}, {"serializedFile": "m.pt"}, "'m.pt', which is not inside"),
        ("", {"h.py": FINE}, {}, "names no handler"),
        ("h.py", {"h.py": FINE}, {"modelName": "../x"}, "is no model's name"),
        (
            "h.py",
            {"h.py": FINE, "c.yaml": "continuousBatching: true\n"},
            {"configFile": "c.yaml"},
            "asks for continuousBatching",
        ),
        (
            "h.py",
            {"h.py": FINE, "c.yaml": "parallelType: tp\n"},
            {"configFile": "c.yaml"},
            "several processes",
        ),
        ("h.py", {"h.py": FINE, "c.yaml": "- 1\n"}, {"configFile": "c.yaml"}, "key: value"),
        (
            "h.py",
            {"h.py": FINE, "r.txt": "numpy\n-r other.txt\n"},
            {"requirementsFile": "r.txt"},
            "only names with versions",
        ),
    ],
)
def test_refused_with_the_way_out(tmp_path, handler, files, model, words) -> None:
    path = foreign.write(tmp_path, "old", handler, files, **model)
    with pytest.raises(BadInput, match=words):
        adopt(path, tmp_path / "store")
    assert not list((tmp_path / "store").glob("*.mar"))


def test_a_workflow_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "flow.war"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("MAR-INF/MANIFEST.json", json.dumps({"workflow": {"workflowName": "w"}}))
    with pytest.raises(BadInput, match="is a workflow"):
        adopt(path, tmp_path / "store")


def test_what_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "x.mar").write_bytes(b"hello")
    with pytest.raises(BadInput, match="neither a zip nor a gzipped tar"):
        adopt(tmp_path / "x.mar", tmp_path)
    with pytest.raises(BadInput, match="there is no"):
        adopt(tmp_path / "y.mar", tmp_path)
    with zipfile.ZipFile(tmp_path / "z.mar", "w") as packed:
        packed.writestr("a", "b")
    with pytest.raises(BadInput, match="was not made by torch-model-archiver"):
        adopt(tmp_path / "z.mar", tmp_path)
    cut = made(tmp_path).read_bytes()[:-30]
    (tmp_path / "cut.mar").write_bytes(cut)
    with pytest.raises(BadInput, match="damaged"):
        adopt(tmp_path / "cut.mar", tmp_path)


def test_a_package_that_is_not_there(tmp_path: Path) -> None:
    code = "import no_such_package.part\n" + FINE
    path = made(tmp_path, h_py=code)
    with pytest.raises(Missing, match=r"imports no_such_package.part.*pip install no_such_package"):
        adopt(path, tmp_path / "store")
    listed = foreign.write(
        tmp_path,
        "old",
        "h.py",
        {"h.py": code, "r.txt": "no-such-package==1\n"},
        requirementsFile="r.txt",
    )
    with pytest.raises(Missing, match="adopt it with --install"):
        adopt(listed, tmp_path / "store")


def test_what_a_training_script_beside_imports_is_no_reason(tmp_path: Path) -> None:
    path = made(tmp_path, h_py=FINE, train_py="import no_such_package\n")
    assert adopt(path, tmp_path / "store").archive is not None


class Evil:
    """Runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch /tmp/marpress-was-here",)


def test_a_pickle_that_could_run_anything(tmp_path: Path) -> None:
    path = made(tmp_path, h_py=FINE, m_pkl=pickle.dumps(Evil()))
    result = adopt(path, tmp_path / "store")
    assert result.archive is None
    (found,) = [f for f in result.findings if f.file == "m.pkl"]
    assert found.verdict == "refused"
    assert "--allow-imports posix.system" in found.what
    with pytest.raises(Unsafe, match=r"because of m\.pkl"):
        result.check()
    allowed = adopt(path, tmp_path / "store", allow_imports=["posix.system"])
    assert allowed.archive is not None
    assert not Path("/tmp/marpress-was-here").exists()


def test_torchscript_that_reaches_files(tmp_path: Path) -> None:
    class Reads(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.from_file("/etc/hostname", size=1, dtype=torch.float32)

    path = foreign.write(
        tmp_path,
        "old",
        "image_classifier",
        {"m.pt": examples.scripted(Reads())},
        serializedFile="m.pt",
    )
    result = adopt(path, tmp_path / "store")
    assert result.archive is None
    assert "--allow-ops aten::from_file" in result.findings[0].what
    assert adopt(path, tmp_path / "store", allow_ops=["aten::from_file"]).archive is not None


def test_our_own_archives_need_no_adoption(tmp_path: Path) -> None:
    sealed = mar.seal(quadrant.make(tmp_path / "artifacts"), tmp_path / "store")
    with pytest.raises(BadInput, match="own archives"):
        adopt(sealed.path, tmp_path / "other")
    first = adopt(made(tmp_path), tmp_path / "store").archive
    assert first is not None
    with pytest.raises(BadInput, match="adopted already"):
        adopt(first.path, tmp_path / "other")


def test_a_tar_is_to_be_adopted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "old.tar.gz"
    path.write_bytes(gzip.compress(b"x"))
    for verb in (["verify"], ["evidence"], ["emit", "docker"]):
        assert main([*verb, str(path)]) == 2
        assert f"deploy adopt {path}" in capsys.readouterr().err


def test_an_unsealed_archive_is_not_served(tmp_path: Path) -> None:
    for suffix in (".mar", ".war"):
        path = foreign.write(tmp_path, "old", "h.py", {"h.py": FINE}, suffix=suffix)
        with pytest.raises(DeployError, match="run deploy adopt first"):
            verify(path)


def test_a_changed_entry_of_an_adopted_archive_is_found(tmp_path: Path) -> None:
    sealed = adopt(made(tmp_path), tmp_path / "store").archive
    assert sealed is not None
    data = sealed.path.read_bytes()
    sealed.path.write_bytes(data.replace(b"return data", b"return Data"))
    with pytest.raises(BadInput, match=r"damaged at h\.py"):
        verify(sealed.path)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = made(tmp_path, h_py=FINE, weights_pt=examples.saved({"w": torch.ones(2)}))
    assert main(["adopt", str(path), "--store", str(tmp_path / "store")]) == 0
    text = capsys.readouterr().out
    assert "evidence adopted, not measured" in text
    assert all(
        len(line) <= 80 for line in text.splitlines() if not line.startswith(("path", "sha"))
    )
    assert main(["adopt", str(path), "--json", "--model-store", str(tmp_path / "s")]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["handler"] == {"kind": "function", "file": "h.py", "name": "h"}
    assert [found["verdict"] for found in told["findings"]] == ["note", "ok"]
    bad = made(tmp_path, "bad", h_py=FINE, m_pkl=pickle.dumps(Evil()))
    assert main(["adopt", str(bad), "--store", str(tmp_path / "store")]) == 6
    assert main(["adopt", str(tmp_path / "none.mar"), "--store", str(tmp_path)]) == 2
    gone = made(tmp_path, "gone", h_py="import no_such_package\n" + FINE)
    assert main(["adopt", str(gone), "--store", str(tmp_path / "store")]) == 7


@pytest.mark.parametrize("form", ["zip", "tgz"])
def test_mutated_archives_are_adopted_or_refused(tmp_path: Path, form: str) -> None:
    """Bytes changed, removed and put in, half of them in the list at a zip's end."""
    whole = made(tmp_path, h_py=FINE, m_pt=examples.saved({"w": torch.ones(2)})).read_bytes()
    if form == "tgz":
        buffer = io.BytesIO()
        with zipfile.ZipFile(io.BytesIO(whole)) as packed, tarfile.open(None, "w", buffer) as tar:
            for name in packed.namelist():
                info = tarfile.TarInfo(f"old/{name}")
                info.size = packed.getinfo(name).file_size
                tar.addfile(info, io.BytesIO(packed.read(name)))
        whole = buffer.getvalue()
    rng = random.Random(form)
    outcomes = set()
    for _ in range(150):
        data = bytearray(whole)
        for _ in range(rng.choice([1, 2, 5])):
            last = min(len(data), 400) if rng.random() < 0.5 else len(data)
            at = len(data) - 1 - rng.randrange(last)
            kind = rng.random()
            if kind < 0.6:
                data[at] = rng.randrange(256)
            elif kind < 0.8:
                del data[at : at + rng.randrange(1, 20)]
            else:
                data[at:at] = rng.randbytes(5)
        path = tmp_path / "mutant"
        path.write_bytes(gzip.compress(bytes(data), 1) if form == "tgz" else bytes(data))
        try:
            outcomes.add(adopt(path, tmp_path / "store").archive is not None)
        except DeployError as error:
            outcomes.add(type(error).__name__)
    assert "BadInput" in outcomes
