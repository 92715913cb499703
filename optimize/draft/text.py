"""The text of a first recipe, with comments on what was seen and what else there is."""

import textwrap
from typing import TYPE_CHECKING, Any

import yaml

from optimize.draft.asked import Asked
from optimize.draft.data import Seen
from optimize.draft.model import Model

if TYPE_CHECKING:
    from optimize.draft.pixels import Found

_PRUNE = {"prune": {"ratio": 0.25, "recover": {"epochs": 2}}}
# Smaller ones are not worth cutting.
_WIDTH = 64
_VOCABULARY = 8000
WHY = {
    "train": "Nothing says that the model is trained: it is, here. Leave this out if it is.",
    "prune": "A quarter of the channels goes, then what is left is trained to answer as before.",
    "vocabulary": "Only the more frequent half of the tokens keeps its row in the table.",
    "quantize": "Int8: a quarter of the size, and several times as fast.",
    "int8": "Int8: a quarter of the size.",
    "screen": "The likely tokens are found first, and those alone scored exactly.",
    "context": "Only the real audio is encoded, not the silence up to 30 seconds.",
}


def stages(
    asked: Asked, task: str, model: Model, seen: Seen, *, tokens: int, widest: int
) -> list[Any]:
    """The stages that serve a goal without tuning.

    Args:
        asked: the goal.
        task: the kind of model.
        model, seen: what was seen.
        tokens: of the tokenizer, for texts.
        widest: channels of the model's widest layer.
    """
    if task == "speech_recognition":
        return ["int8"] if asked.goal == "size" else ["int8", "screen", "context"]
    found: list[Any] = []
    trains = model.untrained and seen.metric != "parity" and task != "text_embedding"
    if trains:
        found.append("train")
    prunes = task in ("image_classification", "tensors") and widest >= _WIDTH
    if asked.goal == "size" and prunes:
        found.append(_PRUNE)
    if asked.goal == "size" and tokens >= _VOCABULARY:
        found.append({"vocabulary": {"rows": tokens // 2}})
    return [*found, "quantize"]


def recipe(
    asked: Asked,
    task: str,
    name: str,
    seen: Seen,
    model: Model,
    chosen: list[Any],
    pixels: "Found | None",
    schema: str,
) -> str:
    """The recipe as YAML.

    Args:
        asked: the answers.
        task, name: of the model.
        seen, model: what was seen.
        chosen: from `stages`.
        pixels: for pictures.
        schema: the path of the JSON Schema, from the recipe's folder.
    """
    parts = [
        f"# yaml-language-server: $schema={schema}",
        _comment(f"Written by `marpress init`. Run it: python -m marpress run {name}.yaml"),
        _yaml({"name": name, "task": task, "seed": 0}),
        "",
        _comment(f"Seen: {seen.said}."),
        _yaml({"data": seen.data}),
        "",
        _comment(f"Seen: {'; '.join(model.said)}."),
        _yaml({"model": model.model}),
    ]
    if model.checkpoint is not None:
        parts.append(_yaml({"checkpoint": model.checkpoint}))
    if pixels is not None:
        parts += ["", _comment(f"How a picture becomes what the model takes: {pixels.said}.")]
        shown = _yaml({"input": pixels.input}) if pixels.input else "# input: {size: 224}"
        parts += [shown, _comment("Other scaling: resize: crop, squash or letterbox.")]
    if seen.metric is not None:
        judged = "How answers are judged: regression, classification, multi_label, segmentation, "
        parts += ["", _comment(f"{judged}parity (as the original answers), or file.py:function.")]
        parts.append(_yaml({"metric": seen.metric}))
    parts += ["", "stages:"]
    for stage in chosen:
        kind = stage if isinstance(stage, str) else next(iter(stage))
        shown = textwrap.indent(stage if isinstance(stage, str) else _yaml(stage), " " * 4)
        parts += [_comment(WHY[kind], 2), f"  - {shown.lstrip()}"]
    objective = "size" if asked.goal == "size" else "latency_batch1"
    parts += [
        "",
        _comment(
            "What the compressed model may lose, in the metric's own unit (of accuracy 0.01 is one "
            "point). floor: the worst value that it may have."
        ),
        _yaml({"budget": {"max_drop": asked.max_drop, "objective": objective}}),
        "",
        _comment("Instead of fixed stages, look for the best options of these within the budget:"),
        "# search: {minutes: 60}",
        "",
        _comment("The archive's NOTICE says on which terms the weights and the data may be used:"),
        '# licences: {weights: "Apache-2.0", data: "my own"}',
    ]
    return "\n".join(parts) + "\n"


def _comment(text: str, indent: int = 0) -> str:
    mark = " " * indent + "# "
    printable = "".join(c if c.isprintable() else "?" for c in text)
    return textwrap.fill(
        printable,
        98,
        initial_indent=mark,
        subsequent_indent=mark,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _yaml(entries: dict[str, Any]) -> str:
    """A line a key; below it mappings of plain values in one line, others in several."""
    return "".join(
        yaml.safe_dump(
            {key: value},
            sort_keys=False,
            default_flow_style=None if isinstance(value, dict) else False,
            width=98,
            allow_unicode=True,
        )
        for key, value in entries.items()
    ).rstrip()
