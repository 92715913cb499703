"""TorchScript's operators, read from files of PyTorch and from such as were tampered with."""

import io
import struct
import zipfile
from pathlib import Path

import pytest
import torch

from handlers import operators


class Plain(torch.nn.Module):
    def forward(self, x: torch.Tensor, n: int) -> torch.Tensor:
        values: list[int] = x.long().flatten().tolist()
        if len(values) > n:
            raise ValueError("too many: torch.save is only a word here")
        return torch.relu(x).view(-1).softmax(0) + float(n)


class FromFile(torch.nn.Module):
    def forward(self, path: str) -> torch.Tensor:
        return torch.from_file(path, True, 4)


class Saves(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        torch.save(x, "x.pt")
        print(x)
        return x


def scripted(model: torch.nn.Module) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.script(model), buffer)
    return buffer


def tampered(line: str) -> io.BytesIO:
    """A file whose method begins with `line`."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(scripted(Plain())) as whole, zipfile.ZipFile(buffer, "w") as sink:
        for name in whole.namelist():
            text = whole.read(name)
            if name.endswith(".py"):
                first = b"    n: int) -> Tensor:\n"
                assert first in text
                text = text.replace(first, first + f"    {line}\n".encode())
            sink.writestr(name, text)
    return buffer


def test_what_only_computes_is_allowed() -> None:
    assert operators.outside(scripted(Plain())) == []


def test_int8_is_allowed() -> None:
    class Small(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q = torch.quantize_per_tensor(x, 0.1, 0, torch.quint8)
            return torch.ops.quantized.add(q, q, 0.1, 0).dequantize()

    assert operators.outside(scripted(Small())) == []


def test_what_reaches_out_is_named_and_may_be_allowed() -> None:
    assert operators.outside(scripted(FromFile())) == ["aten::from_file"]
    assert operators.outside(scripted(Saves())) == ["aten::save", "prim::print"]
    assert operators.outside(scripted(Saves()), ["aten::save", "prim::print"]) == []


@pytest.mark.parametrize(
    "line",
    [
        "y = torch.from_file('x', True, 4)",
        "y = torch . autograd . from_file('x', True, 4)",
        "t = torch; y = t.from_file('x', True, 4)",
        "y = (torch).from_file('x', True, 4)",
        "y = torch.\\\n      from_file('x', True, 4)",
        "y = (torch\n      .from_file)('x', True, 4)",
        "y = getattr(torch, 'from_file')('x', True, 4)",
        "y = ops.aten.from_file('x', True, 4)",
        "f = ops.aten.from_file",
        "y = 'x'.from_file(True, 4)",
        "f = 'x'.from_file",
        "y = ops.c10d.send([x], x, 0, 0)",
        "y = rpc_sync('x', x)",
        "y = ops.unheard.of(x)",
        "s = '#'; y = torch.from_file('x', True, 4)",
        's = "\\""; y = torch.from_file("x", True, 4)  # "',
        "y = __torch__.torch.classes.dist_c10d.FileStore('x', 1)",
        "p = print; p(x)",
    ],
)
def test_every_spelling_is_found(line: str) -> None:
    assert operators.outside(tampered(line))


@pytest.mark.parametrize(
    "line",
    [
        "o = ops",
        "o = ops.aten",
        's = """x"""',
        's = ("a\\\n", torch.save(x, "f"), "b")',
        "s = ('a\\\n', torch.save(x, 'f'), 'b')",
        "c = getattr(getattr(__torch__, 'torch'), 'classes').dist_rpc.WorkerInfo",
        "c = getattr(__torch__.torch, 'classes').dist_rpc.WorkerInfo",
        "c = (__torch__.torch).classes.dist_rpc.WorkerInfo",
    ],
)
def test_code_that_pytorch_does_not_write_is_not_read(line: str) -> None:
    with pytest.raises(operators.UnreadableCode):
        operators.outside(tampered(line))


def test_a_list_of_entries_that_only_pytorch_finds_is_refused() -> None:
    hidden = tampered("torch.save(x, 'f')").getvalue()
    plain = tampered("torch.relu(x)").getvalue()
    (start,) = struct.unpack("<L", plain[-6:-2])
    (hidden_start,) = struct.unpack("<L", hidden[-6:-2])
    # Python adds to all offsets how far the last list lies behind the place that the end names.
    listed, at = bytearray(plain[start:-22]), 0
    while at < len(listed):
        (offset,) = struct.unpack("<L", listed[at + 42 : at + 46])
        listed[at + 42 : at + 46] = struct.pack("<L", offset + hidden_start - start)
        at += 46 + sum(struct.unpack("<3H", listed[at + 28 : at + 34]))
    end = plain[-22:-6] + hidden[-6:]
    forged = hidden + plain[:start] + bytes(listed) + end
    with zipfile.ZipFile(io.BytesIO(forged)) as whole:
        assert b"torch.save(x" not in b"".join(map(whole.read, whole.namelist()))
    with pytest.raises(operators.UnreadableCode, match="lies elsewhere"):
        operators.outside(io.BytesIO(forged))


@pytest.mark.parametrize("after", [b"x", bytes(60_000)])
def test_what_follows_the_zip_does_not_make_it_something_else(after: bytes) -> None:
    """A file that need not be TorchScript is left alone only where PyTorch would not load it."""
    with pytest.raises(operators.UnreadableCode, match="follows the end") as caught:
        operators.outside(io.BytesIO(scripted(Saves()).getvalue() + after))
    assert not isinstance(caught.value, operators.NoTorchScript)


def test_a_second_zip64_record_is_refused() -> None:
    data = scripted(Plain()).getvalue()
    assert data[-42:-38] == b"PK\x06\x07"
    forged = data[:-34] + struct.pack("<Q", 0) + data[-26:]
    with pytest.raises(operators.UnreadableCode, match="lies elsewhere"):
        operators.outside(io.BytesIO(forged))


def test_what_pytorch_takes_for_another_format_is_refused() -> None:
    data = scripted(Plain()).getvalue()
    with pytest.raises(operators.UnreadableCode, match="another kind"):
        operators.outside(io.BytesIO(data[:4] + b"PTMF" + data[8:]))


@pytest.mark.parametrize("data", [b"", b"x" * 100, b"PK\x05\x06" + bytes(18)])
def test_what_is_no_torchscript_says_so(data: bytes) -> None:
    with pytest.raises(operators.UnreadableCode, match="no TorchScript"):
        operators.outside(io.BytesIO(data))


def test_a_state_dict_is_no_torchscript(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2)}, tmp_path / "x.pt")
    with (tmp_path / "x.pt").open("rb") as file, pytest.raises(operators.NoTorchScript):
        operators.outside(file)


def test_the_list_holds_nothing_that_reaches_out() -> None:
    known = operators.allowed()
    assert {"aten::add", "quantized::conv2d", "prim::NumToTensor", "aten::softmax"} <= known
    for word in ("file", "save", "rpc", "python", "print", "seed"):
        assert not [n for n in known - {"aten::isprintable"} if word in n.casefold()], word
    assert {name.partition("::")[0] for name in known} <= {
        *("aten", "prim", "quantized", "_quantized", "onednn", "mkldnn", "mkldnn_prepacked"),
        *("mkl", "sparse", "quantization"),
    }


def test_the_list_names_operators_that_exist() -> None:
    registered = {str(schema.name) for schema in torch._C._jit_get_all_schemas()}
    registered |= {name.partition(".")[0] for name in torch._C._dispatch_get_all_op_names()}
    unknown = operators.allowed() - registered
    assert not {name for name in unknown if not name.startswith("prim::")}
