"""Data sets, one module each: a loader returns a `Dataset`; nothing else is asked of it."""
