"""Imported once by the process that workers are forked from: what every one of them needs.

A fork of it starts in milliseconds, where a fresh Python takes seconds to import torch. No
archive's code runs here.
"""

import signal

import torch  # noqa: F401

from deploy.service import worker

signal.signal(signal.SIGTERM, signal.SIG_IGN)
worker.die_with_parent()
