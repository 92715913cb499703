"""How many cores this process may use: of the machine's, those that it was given."""

import math
import os
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


def usable(cgroups: Path = _CGROUPS) -> int:
    """Cores that the process may run on (`taskset`, a container's cpuset), or the processor time
    that its container has per second where that is less (Docker's `--cpus`); 1 at least.

    `cgroups`: where Linux shows the container's limits, of version 1 or 2. A limit of what the
    container is in (a pod, a service of systemd) is not seen from there.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:  # not on Linux
        cores = os.cpu_count() or 1
    return max(1, math.ceil(min(cores, _share(cgroups))))


def _share(cgroups: Path) -> float:
    """Seconds of processor time per second; infinite where none is set."""
    for names in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroups / name).read_text() for name in names).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):  # no such file, or "max": no limit
            continue
        if quota > 0 and period > 0:
            return quota / period
    return math.inf
