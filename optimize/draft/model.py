"""A look at a user's model: what it is, and how a recipe names it."""

import ast
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from optimize.draft.data import written
from optimize.errors import ModelError
from optimize.models import fileformat, weights
from optimize.utils.wording import few

TAKEN = (
    "path/to/file.py:function (which returns an nn.Module), a TorchScript file, a Hugging Face "
    "folder, timm/NAME, an archive (.mar)"
)
_SAVED = ("*.safetensors", "*.bin", "*.pt")
_TIMM = "a model of timm, without weights; `pretrained: true` beside its name downloads them"
# Architectures that need a file or a name of their own.
_SOURCES = ("archive", "huggingface", "timm", "torchscript")
_BUILDERS = ("build", "model", "make_model", "create_model", "get_model")


@dataclass(frozen=True)
class Model:
    """A model as a recipe names it.

    Attributes:
        model: the recipe's `model`.
        said: what was seen, a sentence each.
        checkpoint: the recipe's `checkpoint`.
        untrained: whether nothing says that anyone has trained it.
        positions: tokens that an encoder of texts takes at most; 0 if it does not say.
    """

    model: Any
    said: tuple[str, ...]
    checkpoint: str | None = None
    untrained: bool = False
    positions: int = 0


def look(
    given: str, checkpoint: str | None, folder: Path, task: str, known: Iterable[str]
) -> Model:
    """What the model at `given` is.

    Args:
        given: `TAKEN`, or one of `known`.
        checkpoint: a file of weights.
        folder: the recipe's.
        task: the kind of model.
        known: the task's own architectures.

    Raises:
        ModelError: there is no such model, or something else.
    """
    found, said, untrained = _model(
        given, folder, task, [name for name in known if name not in _SOURCES]
    )
    if checkpoint is None:
        return Model(found, tuple(said), None, untrained, _positions(given))
    read = weights.read(Path(checkpoint).expanduser())
    count = sum(tensor.numel() for tensor in read.tensors.values())
    key = f" under the key {read.key!r}" if read.key else ""
    said.append(f"{checkpoint}: {len(read.tensors)} tensors, {count:,} numbers{key}")
    return Model(found, tuple(said), written(checkpoint, folder), positions=_positions(given))


def widest(model: nn.Module) -> int:
    """Channels of a model's widest layer but the last, which gives its answers."""
    layers = [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv1d | nn.Conv2d)]
    return max((int(layer.weight.shape[0]) for layer in layers[:-1]), default=0)


def _positions(given: str) -> int:
    try:
        config = json.loads((Path(given).expanduser() / "config.json").read_text(encoding="utf-8"))
        return int(config.get("max_position_embeddings", 0))
    except (OSError, ValueError, TypeError, AttributeError):
        return 0


def _model(given: str, folder: Path, task: str, known: list[str]) -> tuple[Any, list[str], bool]:
    path = Path(given).expanduser()
    if given in known:
        return given, [f"the architecture {given}"], given not in ("bert", "whisper")
    if given.startswith("timm/"):
        return {"timm": {"name": given.removeprefix("timm/")}}, [_TIMM], True
    file, _, function = given.rpartition(":")
    if file.endswith(".py") or path.suffix == ".py":
        return _code(Path(file or given).expanduser(), function if file else "", folder)
    if path.is_dir():
        return _folder(path, written(given, folder), task)
    if not path.is_file():
        others = f", or one of {', '.join(sorted(known))}" if known else ""
        raise ModelError(f"there is no {given}: a model is {TAKEN}{others}")
    if path.suffix == ".mar":
        return {"archive": written(given, folder)}, ["the model in an archive"], False
    kind = fileformat.of(path)
    if "TorchScript" in kind:
        return {"torchscript": {"name": written(given, folder)}}, ["a TorchScript file"], False
    if kind in ("torch", "safetensors"):
        tensors = weights.read(path).tensors
        raise ModelError(
            f"{path} holds weights, {len(tensors)} tensors such as {few(list(tensors), 2)}, and "
            "not the code of the model that they are for: name both, as in --model "
            f"model.py:build --checkpoint {path}"
        )
    raise ModelError(f"{path} {kind}; a model is {TAKEN}")


def _code(path: Path, name: str, folder: Path) -> tuple[Any, list[str], bool]:
    """`file.py:name`, the name found where the file leaves no choice; the file does not run."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(f"there is no {path}: a model is {TAKEN}") from error
    except (OSError, UnicodeDecodeError, SyntaxError) as error:
        raise ModelError(f"{path} is no Python file that can be read: {error}") from error
    classes = [
        node.name
        for node in tree.body
        if isinstance(node, ast.ClassDef)
        and any(ast.unparse(base).endswith("Module") for base in node.bases)
    ]
    functions = [node.name for node in tree.body if isinstance(node, ast.FunctionDef)]
    usual = [function for function in functions if function in _BUILDERS]
    if name and name not in {*classes, *functions, *_assigned(tree)}:
        raise ModelError(f"{path} has no {name}; it has {few([*functions, *classes]) or 'nothing'}")
    if not name:
        choices = usual or classes or functions
        if len(choices) != 1:
            raise ModelError(
                f"{path} has {few(choices) or 'no function or nn.Module'}: say which makes the "
                f"model, as in --model {path}:{choices[0] if choices else 'build'}"
            )
        name = choices[0]
    kind = "class" if name in classes else "function"
    return f"{written(str(path), folder)}:{name}", [f"the {kind} {name} of {path}"], True


def _assigned(tree: ast.Module) -> set[str]:
    """Names that a module assigns or imports: they may be functions too."""
    found = set()
    for node in tree.body:
        if isinstance(node, ast.Assign):
            found |= {target.id for target in node.targets if isinstance(target, ast.Name)}
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


def _folder(path: Path, name: str, task: str) -> tuple[Any, list[str], bool]:
    """A Hugging Face folder."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
        kind = str(config.get("model_type", "?"))
        heads = [str(head) for head in config.get("architectures") or []]
        labels = dict(config.get("id2label") or {})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(
            f"{path} has no config.json that can be read: a folder is a model as "
            "`save_pretrained` writes it"
        ) from error
    saved = any(any(path.glob(pattern)) for pattern in _SAVED)
    classifies = any("Classification" in head for head in heads)
    said = [f"a Hugging Face folder, {kind} ({', '.join(heads) or 'no head is named'})"]
    if classifies and labels:
        said.append(f"its labels: {few([str(label) for label in labels.values()], 8)}")
    if not saved:
        said.append("it holds no weights")
    name = name if "/" in name else f"./{name}"
    if task == "speech_recognition":
        return {"whisper": {"path": name}}, said, False
    if task in ("text_classification", "text_embedding"):
        untrained = task == "text_classification" and not (saved and classifies)
        return {"bert": {"path": name}}, said, untrained
    return {"huggingface": name}, said, not saved
