"""Serving settings, measured on the machine that serves: `python -m deploy tune NAME`."""
