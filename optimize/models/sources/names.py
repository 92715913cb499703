"""Resolves the bare name of a model to a source."""

import re

from optimize.recipe.reader import Named


def resolve(spec: Named) -> Named:
    """Resolve a bare name: a TorchScript file, `timm/NAME`, or a Hugging Face folder or id.

    Names of built-in architectures and `file.py:function` are returned unchanged.
    """
    name = spec.name
    if ":" in name:
        return spec
    kind = None
    if name.endswith((".pt", ".jit", ".ts", ".torchscript")):
        kind = "torchscript"
    elif name.startswith("timm/"):
        kind, name = "timm", name.removeprefix("timm/")
    elif re.fullmatch(r"[~.\w-]*/[\w./-]+", name):
        kind = "huggingface"
    return spec if kind is None else Named(kind, {"name": name, **spec.options}, spec.where)
