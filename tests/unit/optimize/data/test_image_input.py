"""What a recipe says of pictures, over what a model's files say."""

import json
from pathlib import Path
from typing import Any

import pytest

from handlers.images import ImageSpec
from optimize.data import preprocessing
from optimize.data.image_input import ImageInput, card_input, describe
from optimize.errors import RecipeError
from optimize.recipe.reader import Named
from optimize.tasks.registry import read_recipe

RECIPE = "name: a\ntask: {task}\ndata: x.py:f\nmodel: y.py:g\nstages: []\n{input}\n"


def written(tmp_path: Path, text: str, task: str = "image_classification") -> ImageInput:
    file = tmp_path / "a.yaml"
    file.write_text(RECIPE.format(task=task, input=text))
    found = read_recipe(file).input
    assert isinstance(found, ImageInput)
    return found


def test_a_recipe_says_all_of_it(tmp_path: Path) -> None:
    found = written(
        tmp_path,
        "input: {size: [96, 128], resize: letterbox, interpolation: bicubic, fill: 114,\n"
        "  mean: [0.5, 0.4, 0.3], std: 0.25, color_order: BGR}",
    )
    spec = found.spec((96, 128), 3)
    assert spec == ImageSpec(
        96, 128, 3, (96, 128), resize="letterbox", interpolation="bicubic",
        color_order="BGR", fill=114,
    )  # fmt: skip
    assert found.normalization() == ([127.5, 102.0, 76.5], 63.75)
    entry = card_input(spec, found)
    assert ImageSpec.from_card(json.loads(json.dumps(entry))) == spec
    assert (entry["mean"], entry["std"], entry["fill"]) == ([0.5, 0.4, 0.3], 0.25, 114)
    assert describe(spec) == "96x128 BGR, letterbox, bicubic"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("input: {resize: stretch}", "a.yaml:6: input.resize must be one of crop, squash, letter"),
        ("input: {crop: 224}", "a.yaml:6: input has no option 'crop'"),
        ("input: {size: [1, 2, 3]}", r"size is one number or \[height, width\]"),
        ("input: {crop_pct: 1.5}", "crop_pct is a share"),
        ("input: {crop_pct: 0.9, resize_size: 256}", "keep one"),
        ("input: {mean: [123.7, 116.3, 103.5]}", "set value_range: 0..255"),
        ("input: {std: [1, 2]}", "one number, or one per channel"),
        ("input: {std: 0}", "above 0"),
    ],
)
def test_what_it_cannot_mean_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        written(tmp_path, text)


def test_a_task_without_pictures_takes_no_input(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="input: text_classification has no such"):
        written(tmp_path, "input: {size: 224}", "text_classification")


def test_values_are_brought_to_pixel_units() -> None:
    assert ImageInput().normalization() is None
    assert ImageInput(value_range="0..1").normalization() == (0.0, 255.0)
    assert ImageInput(value_range="-1..1").normalization() == (127.5, 127.5)
    assert ImageInput(value_range="0..255").normalization() == (0.0, 1.0)
    pixels = ImageInput(mean=[10.0, 20.0, 30.0], std=2.0, value_range="0..255")
    assert pixels.normalization() == ([10.0, 20.0, 30.0], 2.0)


def test_crop_pct_is_timms() -> None:
    assert ImageInput(crop_pct=0.95).spec((224, 224), 3).resize_size == 235
    assert ImageInput(crop_pct=0.875).spec((112, 224), 3).resize_size == (128, 256)
    squashed = ImageInput(crop_pct=0.875, resize="squash").spec((224, 224), 3)
    assert squashed.resize_size == (256, 256)


def test_a_recipe_goes_before_the_models_files() -> None:
    stored = ImageInput(size=224, resize="crop", resize_size=256, interpolation="bicubic", mean=0.5)
    merged = ImageInput(interpolation="bilinear").over(stored)
    assert (merged.resize_size, merged.interpolation, merged.mean) == (256, "bilinear", 0.5)
    squash = ImageInput(resize="squash").over(stored)
    assert (squash.size, squash.resize_size, squash.crop_pct) == (224, None, None)
    smaller = ImageInput(size=112).over(stored).spec((112, 112), 3)
    assert smaller.resize_size == 128
    assert ImageInput(std=0.1).over(stored).mean is None


HUGGING_FACE: list[tuple[dict[str, Any], ImageSpec]] = [
    (  # google/vit-base-patch16-224: squashed
        {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224},
         "resample": 2},
        ImageSpec(224, 224, resize="squash"),
    ),
    (  # an early one: a number alone
        {"feature_extractor_type": "ViTFeatureExtractor", "size": 224, "resample": 2},
        ImageSpec(224, 224, resize="squash"),
    ),
    (  # microsoft/resnet-50
        {"feature_extractor_type": "ConvNextFeatureExtractor", "crop_pct": 0.875, "size": 224,
         "resample": 3},
        ImageSpec(224, 224, resize_size=256, interpolation="bicubic"),
    ),
    (  # facebook/convnext-large-384: warped
        {"image_processor_type": "ConvNextImageProcessor", "size": {"shortest_edge": 384},
         "crop_pct": None, "resample": 3},
        ImageSpec(384, 384, resize="squash", interpolation="bicubic"),
    ),
    (  # facebook/deit: squashed to 256, then its centre
        {"feature_extractor_type": "DeiTFeatureExtractor", "size": 256, "crop_size": 224,
         "do_center_crop": True, "resample": 3},
        ImageSpec(224, 224, resize_size=(256, 256), resize="squash", interpolation="bicubic"),
    ),
    (  # google/mobilenet_v2
        {"image_processor_type": "MobileNetV2ImageProcessor", "size": {"shortest_edge": 256},
         "crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "resample": 2},
        ImageSpec(224, 224, resize_size=256),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("stored", "spec"), HUGGING_FACE)
def test_a_preprocessor_config_is_read(
    tmp_path: Path, stored: dict[str, Any], spec: ImageSpec
) -> None:
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    stored = {**stored, "image_mean": mean, "image_std": std}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    found, where = preprocessing.read(Named("./.", {}), tmp_path)
    assert where == "preprocessor_config.json of ./."
    size = found.size
    assert isinstance(size, list)
    assert found.spec((size[0], size[1]), 3) == spec
    assert (found.mean, found.std) == (mean, std)


def test_a_preprocessor_that_does_not_rescale(tmp_path: Path) -> None:
    stored = {"size": 32, "do_rescale": False, "do_normalize": False}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(stored))
    found, _ = preprocessing.read(Named("huggingface", {"name": "."}), tmp_path)
    assert found.normalization() == (0.0, 1.0)


def test_timms_data_config_is_read(tmp_path: Path) -> None:
    found, where = preprocessing.read(Named("timm/resnet18", {}), tmp_path)
    assert where == "timm's data config of resnet18"
    spec = found.spec((224, 224), 3)
    assert spec == ImageSpec(224, 224, 3, 235, interpolation="bicubic")
    found, _ = preprocessing.read(
        Named("timm", {"name": "vit_tiny_patch16_224", "img_size": 96}), tmp_path
    )
    assert found.size == [96, 96] and found.mean == [0.5, 0.5, 0.5]
    assert preprocessing.read(Named("timm/no_such_model", {}), tmp_path) == (ImageInput(), "")
    stored = {"architecture": "x", "pretrained_cfg": {"input_size": [3, 64, 64], "crop_pct": 1.0}}
    (tmp_path / "config.json").write_text(json.dumps(stored))
    found, where = preprocessing.read(Named("./.", {}), tmp_path)
    assert where == "config.json of ./." and found.size == [64, 64]


def test_a_model_without_such_files_says_nothing(tmp_path: Path) -> None:
    for name in ("resnet", "./nowhere", "mine.py:build"):
        assert preprocessing.read(Named(name, {}), tmp_path) == (ImageInput(), "")
    (tmp_path / "preprocessor_config.json").write_text('{"size": "large"}')
    assert preprocessing.read(Named("./.", {}), tmp_path) == (ImageInput(), "")
