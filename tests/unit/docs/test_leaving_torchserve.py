"""docs/leaving-torchserve.md leaves out no setting of the TorchServe that is installed."""

import importlib.util
import re
import struct
import zipfile
from pathlib import Path

PAGE = Path(__file__).resolve().parents[3] / "docs" / "leaving-torchserve.md"
KLASS = "org/pytorch/serve/util/ConfigManager.class"
# Constants of the class that are values, formats or file names, and no keys.
NO_KEYS = {
    *("N/A", "changeit", "default", "false", "true", "https", "index", "log", "logs", "oip"),
    *("prometheus", "python", "ts", "torchelastic_ts", "tsConfigFile", "ts_request_sequence_id"),
    *("ts_request_sequence_start", "ts_request_sequence_end"),
}


def constants(data: bytes) -> set[str]:
    """The strings of a Java class file, by its pool of constants."""
    (count,) = struct.unpack(">H", data[8:10])
    texts: dict[int, str] = {}
    named: list[int] = []
    at, index = 10, 1
    widths = {3: 4, 4: 4, 5: 8, 6: 8, 7: 2, 8: 2, 9: 4, 10: 4, 11: 4, 12: 4, 15: 3, 16: 2, 18: 4}
    while index < count:
        tag = data[at]
        at += 1
        if tag == 1:
            (size,) = struct.unpack(">H", data[at : at + 2])
            texts[index] = data[at + 2 : at + 2 + size].decode("utf-8", "replace")
            at += 2 + size
        else:
            if tag == 8:
                named.append(struct.unpack(">H", data[at : at + 2])[0])
            at += widths[tag]
        index += 2 if tag in (5, 6) else 1
    return {texts[number] for number in named}


def keys() -> set[str]:
    spec = importlib.util.find_spec("ts")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    jar = Path(spec.submodule_search_locations[0]) / "frontend" / "model-server.jar"
    with zipfile.ZipFile(jar) as packed:
        found = constants(packed.read(KLASS))
    return {text for text in found if re.fullmatch(r"[a-z][a-z0-9_]+", text)} - NO_KEYS


def test_every_key_of_config_properties_is_named() -> None:
    found = keys()
    assert len(found) > 50
    assert {"inference_address", "models", "job_queue_size"} <= found
    rows = set(re.findall(r"^\| `(\w+)` \| \S", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert found - rows == set()
    assert rows - found <= {"model_store"}


def test_every_verb_that_it_names_is_there() -> None:
    from deploy.__main__ import _parser

    text = PAGE.read_text(encoding="utf-8")
    named = set(re.findall(r"(?:-m deploy|`deploy) ([a-z-]+)", text))
    known = next(a for a in _parser("x")._actions if a.dest == "verb").choices
    assert named <= set(known)
