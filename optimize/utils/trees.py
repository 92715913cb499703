"""Names for the leaves of nested mappings and sequences, and back.

Keys and positions are joined by dots: `{"image": x, "boxes": (y, z)}` has the leaves `image`,
`boxes.0` and `boxes.1`. A named tuple counts as a mapping. A leaf alone, which has no key, gets the
name of its root, and so does the start of a sequence: `output`, or `output.0` and `output.1`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any


def flatten(value: Any, root: str, is_leaf: Callable[[Any], bool]) -> dict[str, Any]:
    """The leaves by name, without those that are None.

    Args:
        value: the tree.
        root: see above.
        is_leaf: whether something is a leaf though it is a list.
    """
    found = {}
    for path, leaf in _walk(value, (), is_leaf):
        if leaf is not None:
            rooted = path if path and not path[0].isdigit() else (root, *path)
            found[".".join(rooted)] = leaf
    return found


def _walk(
    value: Any, path: tuple[str, ...], is_leaf: Callable[[Any], bool]
) -> Iterator[tuple[tuple[str, ...], Any]]:
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, Mapping):
        items = [(str(key), item) for key, item in value.items()]
    elif isinstance(value, tuple | list) and not is_leaf(value):
        items = [(str(position), item) for position, item in enumerate(value)]
    else:
        yield path, value
        return
    for key, item in items:
        yield from _walk(item, (*path, key), is_leaf)


def unflatten(names: Sequence[str], leaves: Sequence[Any]) -> dict[str, Any]:
    """The tree that `flatten` gives these names of: mappings, and tuples where all keys are
    0, 1, 2 and so on."""
    tree: dict[str, Any] = {}
    for name, leaf in zip(names, leaves, strict=True):
        *parents, last = name.split(".")
        place = tree
        for key in parents:
            place = place.setdefault(key, {})
        place[last] = leaf
    return {key: _tupled(item) for key, item in tree.items()}


def _tupled(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    inner = {key: _tupled(item) for key, item in value.items()}
    numbered = [str(position) for position in range(len(inner))]
    return tuple(inner[key] for key in numbered) if sorted(inner) == sorted(numbered) else inner
