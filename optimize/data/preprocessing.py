"""How the pictures of a Hugging Face or timm model are prepared, from what came with it."""

import json
from pathlib import Path
from typing import Any

from optimize.data.image_input import ImageInput
from optimize.models.sources.names import resolve
from optimize.recipe.reader import Named
from optimize.utils.torchvision_shim import retrying

_PREPROCESSOR = "preprocessor_config.json"
# Pillow's numbers of its filters, which preprocessor_config.json stores.
_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
# Processors that read one number as the shorter side; others as both sides.
_SHORTER = ("CLIP", "ConvNext", "Levit", "MobileNet", "PoolFormer", "Siglip")
# Processors whose filter, where none is stored, is bicubic.
_BICUBIC = ("CLIP", "ConvNext", "Beit", "DeiT", "Levit", "PoolFormer")


def read(model: Named, folder: Path) -> tuple[ImageInput, str]:
    """What a model's own files say of its input, and where they stand; nothing and "" if none do.

    Args:
        model: as the recipe names it.
        folder: where relative paths start.
    """
    spec = resolve(model)
    name = str(spec.options.get("name", ""))
    if spec.name == "timm" and name:
        return _timm(name, spec.options)
    if spec.name == "huggingface" and name:
        local = (folder / Path(name).expanduser()).resolve()
        for file, reader in ((_PREPROCESSOR, _huggingface), ("config.json", _config)):
            try:
                found = json.loads((local / file).read_text(encoding="utf-8"))
                given = reader(found) if isinstance(found, dict) else None
            except (OSError, ValueError, KeyError, TypeError, IndexError):
                continue  # the model is judged where it is loaded
            if given is not None:
                return given, f"{file} of {name}"
    return ImageInput(), ""


def _timm(name: str, options: dict[str, Any]) -> tuple[ImageInput, str]:
    try:
        config = retrying(_timm_models).get_pretrained_cfg(name, allow_unregistered=False)
    except Exception:  # the model is judged where it is built
        return ImageInput(), ""
    if config is None:
        return ImageInput(), ""
    found = config.to_dict()
    size = options.get("img_size")
    if isinstance(size, list | tuple | int):
        found["input_size"] = (3, *(size if not isinstance(size, int) else (size, size)))
    return _data_config(found), f"timm's data config of {name}"


def _timm_models() -> Any:
    import timm.models

    return timm.models


def _config(found: dict[str, Any]) -> ImageInput | None:
    """A timm model's config.json holds its data config as `pretrained_cfg`."""
    stored = found.get("pretrained_cfg")
    return _data_config(stored) if isinstance(stored, dict) else None


def _data_config(found: dict[str, Any]) -> ImageInput:
    """timm's `resolve_data_config` for evaluation."""
    size = [int(side) for side in found.get("input_size", (3, 224, 224))[1:]]
    mean = [float(v) for v in found.get("mean") or (0.485, 0.456, 0.406)]
    std = [float(v) for v in found.get("std") or (0.229, 0.224, 0.225)]
    modes: dict[str, Any] = {"squash": "squash", "border": "letterbox"}
    interpolation: Any = found.get("interpolation") or "bicubic"
    return ImageInput(
        size=size,
        resize=modes.get(found.get("crop_mode") or "center", "crop"),
        crop_pct=float(found.get("crop_pct") or 0.875),
        interpolation=interpolation if interpolation in _RESAMPLE else "bicubic",
        mean=mean if len(mean) in (1, 3) else sum(mean) / len(mean),
        std=std if len(std) in (1, 3) else sum(std) / len(std),
        fill=round(255 * sum(mean) / len(mean)) if found.get("crop_mode") == "border" else None,
    )


def _huggingface(found: dict[str, Any]) -> ImageInput:
    """A `preprocessor_config.json`, in the forms that transformers has written over the years."""
    kind = str(found.get("image_processor_type") or found.get("feature_extractor_type") or "")

    def is_a(names: tuple[str, ...]) -> bool:
        return any(name.lower() in kind.lower() for name in names)

    bicubic = "bicubic" if is_a(_BICUBIC) else "bilinear"
    resample = found.get("resample")
    values: dict[str, Any] = {
        "interpolation": _RESAMPLE[resample] if isinstance(resample, int) else bicubic,
        "value_range": None if found.get("do_rescale", True) else "0..255",
    }
    if found.get("do_normalize", True) and found.get("image_mean") and found.get("image_std"):
        values["mean"] = [float(v) for v in found["image_mean"]]
        values["std"] = [float(v) for v in found["image_std"]]
    elif not found.get("do_normalize", True) and values["value_range"] is None:
        values["value_range"] = "0..1"
    return ImageInput(**values, **_huggingface_size(found, is_a(_SHORTER)))


def _huggingface_size(found: dict[str, Any], shorter: bool) -> dict[str, Any]:
    """`size`, `resize` and `resize_size` of a preprocessor_config.json."""
    size, crop = found.get("size"), found.get("crop_size")
    crops = found.get("do_center_crop", crop is not None) and crop is not None
    cropped = _sides(crop) if crops else None
    if not found.get("do_resize", True) or size is None:
        return {"size": cropped} if cropped else {}
    edge = size.get("shortest_edge") if isinstance(size, dict) else size if shorter else None
    if edge is None:
        sides = _sides(size)
        return {
            "size": cropped or sides,
            "resize": "squash",
            "resize_size": sides if cropped else None,
        }
    edge = int(edge)
    kind = str(found.get("image_processor_type") or found.get("feature_extractor_type") or "")
    if "ConvNext" in kind or (found.get("crop_pct") and cropped is None):
        if edge >= 384:
            return {"size": [edge, edge], "resize": "squash"}
        share = float(found.get("crop_pct") or 224 / 256)
        return {"size": [edge, edge], "resize": "crop", "resize_size": int(edge / share)}
    to = int(edge * 256 / 224) if "Levit" in kind else edge
    return {"size": cropped or [edge, edge], "resize": "crop", "resize_size": to}


def _sides(size: Any) -> list[int]:
    """[height, width] of 224, [224, 224] or {"height": 224, "width": 224}."""
    if isinstance(size, dict):
        return [int(size["height"]), int(size["width"])]
    sides = [size, size] if isinstance(size, int) else list(size)
    return [int(sides[0]), int(sides[-1])]
