"""The module that TorchServe loads from an archive, written for one handler.

It has the archive compared with its list before any other module of it is imported, and subclasses
the handler.
"""

import ast
import hashlib
from pathlib import Path

from deploy.archive import imports
from deploy.errors import BadInput

OWN = Path(__file__).resolve().parents[2] / "handlers"
NEEDED = ("__init__.py", "seal.py")
TEMPLATE = '''\
"""TorchServe loads this module: handlers/{handler}.py from this archive."""

import hashlib
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
# What compares the archive's files with MAR-INF/FILES.json, SHA-256.
CHECKED_FIRST = {{
{digests}
}}

# The shell's PYTHONPATH precedes the archive's: make the archive's own copy win.
sys.path.insert(0, str(FOLDER))
# Python would run a compiled copy in place of the file that is compared.
sys.dont_write_bytecode = True
os.environ["PYTHONDONTWRITEBYTECODE"] = "1"

for name, sha256 in CHECKED_FIRST.items():
    path = FOLDER / "handlers" / name
    if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        raise RuntimeError(
            f"nothing is served from {{FOLDER}}: handlers/{{name}} is not the file that was sealed"
        )
if (FOLDER / "handlers" / "__pycache__").exists():
    raise RuntimeError(f"nothing is served from {{FOLDER}}: handlers/__pycache__ is extra")

try:
    from handlers import seal

    seal.check(FOLDER)
    from handlers import {handler}
except ImportError as error:
    # TorchServe takes an ImportError for 'no such file' and reports another one.
    raise RuntimeError(f"handlers/{handler}.py does not import: {{error}}") from error
'''
CLASS = '''

class {name}({handler}.{name}):
    """The one class that TorchServe looks for."""
'''


def make(source: Path, handlers: Path) -> bytes:
    """The entry of the archive that serves a handler.

    A worker's PYTHONPATH is the shell's followed by the archive, so a `handlers` folder on the
    shell's path (a checkout of this repository, say) would win over the archive's own: the entry
    puts the archive first.

    Args:
        source: the handler's file, which defines a class named like it in CamelCase.
        handlers: the folder of the handlers package that is packed.

    Raises:
        BadInput: there is no such handler, or no such class in it.
    """
    handler = source.stem
    if not source.is_file():
        known = sorted(p.stem for p in handlers.glob("*.py") if p.stem not in {"__init__", "base"})
        raise BadInput(f"no handler {source}: the card's handler may be one of {', '.join(known)}")
    name = class_name(handler)
    classes = [n.name for n in imports.parse(source).body if isinstance(n, ast.ClassDef)]
    if name not in classes:
        raise BadInput(f"{source} must define class {name}; it defines {classes}")
    digests = "\n".join(
        f'    "{name}": "{hashlib.sha256(path.read_bytes()).hexdigest()}",'
        for name, path in needed(handlers).items()
    )
    return (TEMPLATE + CLASS).format(handler=handler, name=name, digests=digests).encode()


def plain(handler: str) -> bytes:
    """An entry that compares nothing: for handlers that are debugged."""
    head = f"from handlers import {handler}\n"
    return (head + CLASS.format(handler=handler, name=class_name(handler))).encode()


def class_name(handler: str) -> str:
    """The class that serves, by its module's name."""
    return "".join(part.capitalize() for part in handler.split("_"))


def needed(handlers: Path) -> dict[str, Path]:
    """The modules of the handlers package that the entry checks and imports first.

    Where a handlers folder of a user's own has none of that name, ours is taken.
    """
    return {name: handlers / name if (handlers / name).is_file() else OWN / name for name in NEEDED}
