"""What a model's bare name means."""

import re

from optimize.recipe.reader import Named


def resolve(spec: Named) -> Named:
    """What a bare name means: a TorchScript file, `timm/NAME`, or a Hugging Face folder or id.

    Names of ours and `file.py:function` are returned as they are.
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
