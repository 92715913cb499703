"""An archive's requirements.txt: what it lists, and an environment of its own for it."""

import hashlib
import importlib.metadata
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from deploy.errors import BadInput, Missing

FOLDER = ".environments"
NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?")
TIMEOUT = 3600  # seconds
# Installed once beside the service, and never again for a model: gigabytes, and in one process.
OURS = ("torch", "numpy")


def listed(path: Path) -> list[str]:
    """The requirements in a file, one a line as written. Raises BadInput for other files' names.

    Options and links (`-r`, `--index-url`, `https://...`) are refused: they would install what is
    not written here.
    """
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        text = line.split(" #")[0].strip()
        if not text or text.startswith("#"):
            continue
        if not NAME.match(text) or "://" in text or re.match(r"[./]", text):
            raise BadInput(
                f"{path.name} holds {text[:80]!r}: only names with versions are taken; write the "
                "package's name, or install it yourself and take the line out"
            )
        found.append(text)
    return found


def package(requirement: str) -> str:
    """The package that a line is about, its name spelled as package indexes compare names."""
    match = NAME.match(requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match[0]).lower()


def absent(requirements: list[str]) -> list[str]:
    """Those whose package is not installed here; versions are not compared."""
    missing = []
    for requirement in requirements:
        try:
            importlib.metadata.version(package(requirement))
        except importlib.metadata.PackageNotFoundError:
            missing.append(requirement)
    return missing


def environment(store: Path, requirements: list[str]) -> Path:
    """Where these requirements lie once they are installed: a folder of their digest."""
    text = "\n".join([sys.version.split()[0], *sorted(requirements)])
    return store / FOLDER / hashlib.sha256(text.encode()).hexdigest()[:16]


def packages(store: Path, requirements: list[str]) -> Path | None:
    """The folder of packages to put on the worker's path; None if they were not installed."""
    version = f"python{sys.version_info[0]}.{sys.version_info[1]}"
    found = environment(store, requirements) / "lib" / version / "site-packages"
    return found if found.is_dir() else None


def install(store: Path, requirements: list[str]) -> Path:
    """Install into an environment of its own that also sees this one's packages.

    This one's torch and numpy are kept: a requirement that needs others is refused by pip. Raises
    Missing with pip's words; nothing is left behind then.
    """
    done = packages(store, requirements)
    if done is not None:
        return done
    target = environment(store, requirements)
    aside = target.with_name(f".{target.name}")
    shutil.rmtree(aside, ignore_errors=True)
    aside.parent.mkdir(parents=True, exist_ok=True)
    try:
        venv.create(aside, with_pip=False, clear=True)
        place = next((aside / "lib").glob("python*/site-packages"))
        ours = [path for path in sys.path if path.endswith(("site-packages", "dist-packages"))]
        (place / "inherited.pth").write_text("\n".join(ours) + "\n", encoding="utf-8")
        fixed = aside / "constraints.txt"
        fixed.write_text("".join(f"{n}=={_version(n)}\n" for n in OURS), encoding="utf-8")
        python = aside / "bin" / "python"
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        command += ["--constraint", str(fixed), *requirements]
        ran = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT, check=False)
        if ran.returncode != 0:
            lines = [line for line in ran.stderr.splitlines() if line.strip()]
            raise Missing("pip could not install them: " + "\n".join(lines[-3:])[:500])
        aside.replace(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    found = packages(store, requirements)
    assert found is not None
    return found


def _version(name: str) -> str:
    return importlib.metadata.version(name).partition("+")[0]
