"""pyproject.toml says what works, requirements*.txt what is installed: one version of each."""

import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path.name for path in ROOT.glob("requirements*.txt"))
# What `make setup` installs of pyproject.toml; the formats' extras are pinned there.
INSTALLED = ("images", "text", "speech", "serve", "service")


def project() -> dict[str, list[str]]:
    """Extra -> its requirements; the key "" for those of every installation."""
    table = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return {"": table["dependencies"], **table["optional-dependencies"]}


def pins(name: str) -> dict[str, str]:
    """Package -> version of a requirements file, in which every line must be a pin."""
    found: dict[str, str] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if not text:
            continue
        requirement = Requirement(text)
        (specifier,) = requirement.specifier
        assert specifier.operator == "==" and "*" not in specifier.version, f"{name}: {line}"
        package = canonicalize_name(requirement.name)
        assert package not in found, f"{name} names {package} twice"
        found[package] = specifier.version
    return found


@pytest.mark.parametrize("extra", ["", *INSTALLED])
def test_what_is_installed_is_what_works(extra: str) -> None:
    installed = pins("requirements.txt")
    for text in project()[extra]:
        requirement = Requirement(text)
        version = installed[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{text}, and {version} is installed"


def test_everything_installed_is_asked_for() -> None:
    asked_for = {
        canonicalize_name(Requirement(text).name)
        for extra in ("", *INSTALLED)
        for text in project()[extra]
    }
    assert set(pins("requirements.txt")) <= asked_for


def test_no_package_has_two_versions() -> None:
    versions: dict[str, dict[str, str]] = {}
    for name in FILES:
        for package, version in pins(name).items():
            versions.setdefault(package, {})[version] = name
    for extra, requirements in project().items():
        for requirement in map(Requirement, requirements):
            for specifier in requirement.specifier:
                if specifier.operator == "==" and "*" not in specifier.version:
                    package = canonicalize_name(requirement.name)
                    versions.setdefault(package, {})[specifier.version] = extra
    assert not {package: found for package, found in versions.items() if len(found) > 1}


@pytest.mark.parametrize("extra", sorted(set(project()) - {"", *INSTALLED}))
def test_a_formats_extra_is_pinned(extra: str) -> None:
    for requirement in map(Requirement, project()[extra]):
        assert [specifier.operator for specifier in requirement.specifier] == ["=="]


@pytest.mark.parametrize(
    ("lock", "sources"),
    [
        ("packages.txt", ("requirements.txt", "requirements-dev.txt")),
        ("data.txt", ("requirements-data.txt",)),
        ("first.txt", ("requirements.txt",)),
    ],
)
def test_every_pin_is_locked_with_hashes(lock: str, sources: tuple[str, ...]) -> None:
    """pip installs from the locks: a pin that is changed without `make lock` would do nothing."""
    entries = [
        entry.partition(" --hash=")
        for entry in (ROOT / "locks" / lock)
        .read_text(encoding="utf-8")
        .replace("\\\n", "")
        .splitlines()
    ]
    assert all(
        hashed and len(tail.split()[0]) == len("sha256:") + 64 for _, hashed, tail in entries
    )
    locked: dict[str, set[str]] = {}
    for head, _, _ in entries:
        requirement = Requirement(head)
        locked.setdefault(canonicalize_name(requirement.name), set()).add(
            str(requirement.specifier)
        )
    for source in sources:
        for package, version in pins(source).items():
            if package != "torch":  # its hashes stand alone
                assert locked[package] == {f"=={version}"}, f"{package}: run make lock"
    torch = (ROOT / "locks" / "torch.txt").read_text(encoding="utf-8").split()[0]
    assert torch == f"torch=={pins('requirements.txt')['torch']}"
