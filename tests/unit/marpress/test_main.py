"""The command `marpress`, the names of the package, and the files it writes into a workplace."""

import argparse
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

import deploy.__main__
import marpress
import optimize.__main__
from deploy.torchserve import config
from marpress import workplace
from marpress.__main__ import DEPLOY, OPTIMIZE, main
from tests.integration import quadrant

ROOT = Path(__file__).resolve().parents[3]


def commands_of(parser: argparse.ArgumentParser) -> set[str]:
    """Names of the subcommands that a parser takes."""
    return {
        name
        for action in parser._actions
        if isinstance(action, argparse._SubParsersAction)
        for name in action.choices
    }


@pytest.mark.parametrize(
    ("names", "module"), [(OPTIMIZE, optimize.__main__), (DEPLOY, deploy.__main__)]
)
def test_every_command_is_there(names: tuple[str, ...], module) -> None:
    assert set(names) == commands_of(module._parser("marpress"))


@pytest.mark.parametrize("command", ["run", "archive"])
def test_a_command_goes_to_its_package(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"usage: marpress {command} ")
    assert "--verbose" in shown


def test_exit_codes_are_the_packages(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(tmp_path / "none.yaml")]) == 2
    assert main(["report", str(tmp_path)]) == 2
    assert main(["archive", "nobody", "--artifacts", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.count("error: ") == 2 and "deploy archive: " in error


def test_an_unknown_command_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["squeeze"])
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert "invalid choice: 'squeeze' (choose from" in error
    assert "'run'" in error and "'serve'" in error


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = capsys.readouterr().out.replace(",", " ").split()
    assert {"init", *OPTIMIZE, *DEPLOY} <= set(shown)


@pytest.mark.parametrize("name", sorted(set(marpress.__all__) - {"__version__"}))
def test_every_name_is_a_function_of_its_module(name: str) -> None:
    module, attribute = marpress._HOMES[name]
    assert getattr(marpress, name) is getattr(importlib.import_module(module), attribute)
    assert callable(getattr(marpress, name))


def test_no_other_name_is_there() -> None:
    assert set(marpress._HOMES) == set(marpress.__all__) - {"__version__"}
    with pytest.raises(AttributeError, match="no attribute 'squeeze'"):
        marpress.squeeze  # noqa: B018


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import marpress, sys; marpress.__version__; print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"


def test_the_commands_start_without_torch() -> None:
    """It takes seconds, and most verbs of deploy never need it."""
    code = "import deploy.__main__, marpress.__main__, optimize.__main__, sys; "
    done = subprocess.run(
        [sys.executable, "-c", code + "print('torch' in sys.modules)"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "False\n"


def test_a_workplace_has_what_serving_reads(tmp_path: Path) -> None:
    written = workplace.write(tmp_path)
    ours = config.properties(ROOT / "config.properties")
    theirs = config.properties(tmp_path / "config.properties")
    assert {key for key in ours if ours[key] != theirs[key]} == {"vmargs", "metrics_config"}
    assert Path(theirs["metrics_config"]).is_file()
    assert Path(theirs["vmargs"].rpartition("=")[2]).is_file()
    recipes = {path.name: path.read_bytes() for path in (ROOT / "recipes").iterdir()}
    assert "recipe.schema.json" in recipes
    assert {p.name: p.read_bytes() for p in (tmp_path / "recipes").iterdir()} == recipes
    assert len(written) == len(recipes) + 1
    assert (tmp_path / "model_store").is_dir()


def test_what_is_there_already_stays(tmp_path: Path) -> None:
    (tmp_path / "config.properties").write_text("mine")
    workplace.write(tmp_path)
    assert (tmp_path / "config.properties").read_text() == "mine"
    assert workplace.write(tmp_path) == []


def test_init_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path)]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'config.properties'}\n")


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_logs_to_standard_error(tmp_path: Path, verbose: bool) -> None:
    """The quiet command prints the same, and nothing beside it."""
    quadrant.make(tmp_path / "artifacts")
    command = [sys.executable, "-m", "marpress", "archive", "quadrant"]
    command += ["--artifacts", str(tmp_path / "artifacts")]
    command += ["--model-store", str(tmp_path / "store")]
    done = subprocess.run(
        [*command, *(["--verbose"] if verbose else [])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("path ")
    assert ("DEBUG deploy.archive.mar: packs model.pt, " in done.stderr) is verbose
    assert bool(done.stderr) is verbose


@pytest.mark.parametrize("verbose", [True, False])
def test_verbose_shows_the_recipe_as_it_was_read(tmp_path: Path, verbose: bool) -> None:
    recipe = (ROOT / "recipes" / "fashion.yaml").read_text()
    (tmp_path / "fashion.yaml").write_text(recipe)
    command = [sys.executable, "-m", "marpress", "run", str(tmp_path / "fashion.yaml")]
    command += ["--set", f"data.fashion_mnist.path={tmp_path}", "--output", str(tmp_path / "out")]
    done = subprocess.run(
        [*command, *(["--verbose"] if verbose else [])],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 4, done.stderr
    assert ("DEBUG optimize: Recipe(name='fashion'" in done.stderr) is verbose
    assert done.stderr.splitlines()[-1].startswith("error: ")
    assert (len(done.stderr.splitlines()) == 1) is not verbose
