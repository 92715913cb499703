"""Resident memory of this process."""

from pathlib import Path


def resident() -> dict[str, float]:
    """Resident memory now and at its highest, in units of 1024 kB."""
    status = Path("/proc/self/status").read_text()
    entries = dict(line.split(":", 1) for line in status.splitlines())
    return {
        name: round(int(entries[key].split()[0]) / 1024, 1)
        for name, key in (("rss_mb", "VmRSS"), ("peak_rss_mb", "VmHWM"))
    }
