"""The measuring environment of a report: processor and package versions."""

import importlib.metadata
import os
import platform
from collections.abc import Collection
from pathlib import Path
from typing import Any

from handlers import cores

VARIABLE = "MARPRESS_ENGINES"
"""Set to `none`, a build measures neither runtimes nor kernels to choose between them."""

_PACKAGES = ("torch", "numpy", "pillow", "simplejpeg", "torch-pruning")


def may_race() -> bool:
    """Whether runtimes and kernels are chosen by measuring them; see VARIABLE."""
    return os.environ.get(VARIABLE) != "none"


def processor() -> str:
    """The processor's model name, from /proc/cpuinfo where there is one."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").split("\n"):
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """The instruction sets that decide how fast int8 and bf16 kernels are."""
    interesting = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8")
    flags = _cpuinfo()
    return [name for name in interesting if name in flags]


def bf16_is_faster(words: Collection[str] | None = None) -> bool:
    """Whether training in bf16 takes less time than in fp32 here; `words` are /proc/cpuinfo's.

    Measured, forward and backward: with AVX512-BF16 alone AMD's processors take two thirds of the
    time, Intel's 1.3 to 1.8 times as long. AMX makes it faster on those.
    """
    words = _cpuinfo() if words is None else words
    return "amx_bf16" in words or {"avx512_bf16", "AuthenticAMD"} <= set(words)


def _cpuinfo() -> frozenset[str]:
    try:
        return frozenset(Path("/proc/cpuinfo").read_text("ascii", errors="replace").split())
    except OSError:
        return frozenset()


def describe() -> dict[str, Any]:
    """Processor, instruction sets, core count, memory (GiB) and operating system."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        memory = 0.0
    return {
        "processor": processor(),
        "features": cpu_features(),
        "cores": cores.usable(),
        "memory_gib": round(memory, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def licences() -> dict[str, str]:
    """The licences that those packages state in their metadata; SPDX expressions, where they do."""
    found = {}
    for name in _PACKAGES:
        try:
            stated = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        named = [*(stated.get_all("License-Expression") or []), *(stated.get_all("License") or [])]
        short = next(iter(named), "")
        classified = [
            line.rpartition(" :: ")[2]
            for line in stated.get_all("Classifier") or []
            if line.startswith("License :: ")
        ]
        # Some packages have their licence's whole text in the field.
        text = short if short and "\n" not in short.strip() else "; ".join(classified)
        if text:
            found[name] = text.strip()
    return found


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a result."""
    installed = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed
