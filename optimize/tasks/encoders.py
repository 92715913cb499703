"""Text encoders from Hugging Face folders, and whether they fit the data's tokenizer."""

import dataclasses
from pathlib import Path
from typing import Protocol

from optimize.data.corpus import load_tokenizer
from optimize.errors import ModelError, RecipeError
from optimize.models.architectures.bert import BertEncoder
from optimize.recipe.schema import Named
from optimize.tasks import named


class Tokenized(Protocol):
    """Texts cut by a tokenizer of so many tokens into windows of at most `max_length`."""

    @property
    def encoder(self) -> Path:
        """The tokenizer's folder."""

    @property
    def vocabulary(self) -> int:
        """Tokens of the tokenizer."""

    @property
    def max_length(self) -> int:
        """Tokens of a window."""


def in_folder(spec: Named, encoder: Path, folder: Path) -> Named:
    """`spec` with the model's folder, `encoder` by default, as its option `path`, absolute."""
    options = dict(spec.options)
    if "name" in options:
        options["path"] = options.pop("name")
    options.setdefault("path", str(encoder))
    return named.absolute(dataclasses.replace(spec, options=options), folder, "path")


def cut_by_own_tokenizer(data: Named, model: Named) -> Named:
    """The data whose texts the tokenizer in the model's folder cuts, unless they name another."""
    folder = model.options.get("name" if model.name == "huggingface" else "path")
    if model.name not in ("bert", "huggingface") or not isinstance(folder, str):
        return data
    return dataclasses.replace(data, options={"encoder": folder, **data.options})


def check_tokenizer(folder: Path, encoder: Path) -> None:
    """Refuse texts that were cut by another tokenizer than the model's own.

    Raises:
        ModelError: says which is which.
    """
    own, used = folder / "tokenizer.json", encoder / "tokenizer.json"
    if not own.is_file() or not used.is_file() or own.read_bytes() == used.read_bytes():
        return
    if load_tokenizer(folder).get_vocab() != load_tokenizer(encoder).get_vocab():
        raise ModelError(
            f"the texts are cut by the tokenizer of {encoder}, and {folder} has another: "
            "name the model's folder as data.encoder too"
        )


def check_positions(model: BertEncoder, data: Tokenized, spec: Named) -> None:
    """Refuse an encoder with fewer tokens or positions than the data's windows have.

    Raises:
        ModelError, RecipeError: says how many.
    """
    rows = model.embeddings.word.num_embeddings
    if rows < data.vocabulary:
        raise ModelError(
            f"the tokenizer of {data.encoder} has {data.vocabulary} tokens, the model "
            f"{rows}: name the model's folder as data.encoder too"
        )
    positions = model.embeddings.position.num_embeddings
    if data.max_length > positions:
        raise RecipeError(
            f"data's max_length is {data.max_length} tokens, and this encoder has {positions} "
            f"positions: set max_length to {positions} or less",
            *spec.where,
        )
