"""TorchScript files: trace, freeze, save compressed, reload in a fresh process, check parity.

`torch.jit` works in torch 2.13 but warns that it is deprecated. All calls go through this module,
which names the warnings it silences.
"""

import json
import math
import re
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.jit import _builtins

from handlers.backend import settle_quantized_notice
from optimize.errors import ModelError, ParityError
from optimize.utils import files

_DEPRECATED = (r"`?torch\.jit\.\w+`? is deprecated", r"torch\.ao\.quantization is deprecated")


@contextmanager
def silenced() -> Iterator[None]:
    """Silence torch's deprecation warnings for TorchScript, torch.ao.quantization and quantized
    tensors."""
    settle_quantized_notice()
    with warnings.catch_warnings():
        for message in _DEPRECATED:
            warnings.filterwarnings("ignore", message=message)
        yield


def keep_operators() -> None:
    """Keep each operator from here on that torch's scripting knows by its address.

    torch 2.13 looks up functions in a table by `id` and holds them nowhere else: once one is gone,
    whatever is made at its address is taken for that operator. Importing torch.ao.quantization.fx
    frees a few; a list of a convolution's took such a place, and scripting the model failed with
    "builtin cannot be used as a value".
    """
    register: Any = _builtins._register_builtin
    if hasattr(register, "kept"):
        return

    def keeping(fn: Any, op: Any) -> None:
        kept.append(fn)
        register(fn, op)

    kept: list[Any] = []
    keeping.kept = kept  # type: ignore[attr-defined]
    _builtins._register_builtin = keeping


keep_operators()


def script(model: nn.Module, example: Tensor | tuple[Tensor, ...]) -> torch.jit.ScriptModule:
    """Trace `model` on `example` and freeze it, unless the model scripts itself.

    Args:
        model: in eval mode. If its `traceable` is False, its method `scripted` is called instead.
        example: the input, or all arguments, of one call; the batch size stays free.

    Raises:
        ModelError: the model cannot be traced.
    """
    if getattr(model, "traceable", True) is False:  # its kernels pack their weights at load
        return model.scripted()  # type: ignore[no-any-return,operator]
    try:
        with silenced(), torch.no_grad(), warnings.catch_warnings():
            # Recurrent layers check their arguments' sizes before they run.
            warnings.filterwarnings("ignore", "Converting a tensor", module=r"torch\.nn\.modules")
            traced = torch.jit.trace(model.eval(), example, check_trace=False)
            _refuse_written_states(traced)
            if not getattr(model, "frozen", True):  # freezing would widen weights stored as int8
                return traced  # type: ignore[no-any-return]
            return torch.jit.freeze(traced)  # type: ignore[no-any-return]
    except ModelError:
        raise
    except Exception as error:  # the user's code can raise anything
        first = (str(error).strip().splitlines() or [""])[0]
        raise ModelError(
            f"the model cannot be traced to TorchScript: {type(error).__name__}: {first}"
        ) from error


def _refuse_written_states(traced: torch.jit.ScriptModule) -> None:
    """Refuse a recurrent layer whose initial state has the example's batch size written into it:
    torch's kernels take it on trust, and would read and write beyond it at a larger one."""
    graph: Any = traced.inlined_graph
    torch._C._jit_pass_constant_propagation(graph)
    for kind in ("lstm", "gru", "rnn_tanh", "rnn_relu"):
        for layer in graph.findAllNodes(f"aten::{kind}", recurse=True):
            given = list(layer.inputs())[1].node()
            states = list(given.inputs()) if given.kind() == "prim::ListConstruct" else [None]
            made = [given if state is None else state.node() for state in states]
            if any(_is_written(node) for node in made):
                raise ModelError(
                    f"the initial state of a recurrent layer (aten::{kind}) is of one batch size; "
                    "make it from the input's: torch.zeros(layers, x.shape[0], width), or leave it "
                    "to the layer"
                )


def _is_written(node: Any) -> bool:
    """Whether a value of a traced graph is made of constants alone."""
    if node.kind() in ("prim::Param", "prim::GetAttr"):
        return bool(node.kind() == "prim::GetAttr")
    return all(_is_written(value.node()) for value in node.inputs())


def save(module: torch.jit.ScriptModule, path: Path) -> int:
    """Save `module` as a compressed file; returns its size in bytes.

    `torch.jit.save` stores tensors uncompressed and adds debug tables of source ranges. The
    records are deflated and the debug tables left out, which `torch.jit.load` accepts. Entry
    times and class names are made constant, so that the same model gives the same bytes.
    """
    with files.replacing(path) as aside, files.private() as scratch:
        plain = scratch / path.name
        with silenced():
            module.save(str(plain))
        with (
            zipfile.ZipFile(plain) as source,
            zipfile.ZipFile(aside, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as target,
        ):
            renumber = _Renumber()
            for name in source.namelist():
                if name.endswith((".debug_pkl", ".data/serialization_id")):
                    continue
                info = zipfile.ZipInfo(renumber(name), date_time=(1980, 1, 1, 0, 0, 0))
                info.compress_type = zipfile.ZIP_DEFLATED
                target.writestr(info, renumber.record(name, source.read(name)))
    return path.stat().st_size


class _Renumber:
    """Numbers mangled class names from 0; torch goes on from what the process traced before."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}

    def __call__(self, text: str) -> str:
        def number(match: re.Match[str]) -> str:
            return f"___torch_mangle_{self.numbers.setdefault(match[1], len(self.numbers))}"

        return re.sub(r"___torch_mangle_(\d+)", number, text)

    def record(self, name: str, content: bytes) -> bytes:
        if name.endswith(".py"):
            return self(content.decode()).encode()
        if name.endswith(".pkl"):  # protocol 2: a class is the opcode c and a line of text

            def line(match: re.Match[bytes]) -> bytes:
                return self(match[0].decode()).encode()

            return re.sub(rb"c__torch__[\w.]*\n", line, content)
        return content


def load(path: Path) -> torch.jit.ScriptModule:
    """Load a TorchScript file.

    Raises:
        ModelError: missing or not TorchScript.
    """
    try:
        with silenced():
            return torch.jit.load(str(path), map_location="cpu")  # type: ignore[no-any-return]
    except (RuntimeError, ValueError, OSError) as error:
        raise ModelError(f"{path} is not a TorchScript file: {error}") from error


_RELOAD = """
import sys, torch
from torch.utils._pytree import tree_map
path, inputs, outputs, engine = sys.argv[1:]
if engine:
    torch.backends.quantized.engine = engine
torch.set_num_threads(1)
model = torch.jit.load(path, map_location="cpu")
answers = []
with torch.inference_mode():
    for call in torch.load(inputs, weights_only=True):
        answers.append(tree_map(torch.clone, model(*call)))
torch.save(answers, outputs)
"""


def answers_afresh(path: Path, calls: list[tuple[Tensor, ...]], engine: str | None) -> list[Any]:
    """The file's answers to each call in a fresh process, on one thread.

    Args:
        path: the TorchScript file.
        calls: the arguments of each call.
        engine: `torch.backends.quantized.engine` of that process.

    Raises:
        ParityError: it does not run there.
    """
    with files.private() as scratch:
        sent, received = scratch / "inputs.pt", scratch / "outputs.pt"
        torch.save(calls, sent)
        # -P: the working directory may hold a `json.py`.
        command = [sys.executable, "-P", "-W", "ignore", "-c", _RELOAD]
        ran = subprocess.run(
            [*command, str(path), str(sent), str(received), engine or ""],
            capture_output=True,
            text=True,
            check=False,
        )
        if ran.returncode != 0:
            last = (ran.stderr.strip().splitlines() or ["no message"])[-1]
            raise ParityError(f"{path.name} does not run in a fresh process: {last}")
        answers: list[Any] = torch.load(received, weights_only=True)
        return answers


def check_parity(
    module: nn.Module,
    path: Path,
    inputs: Tensor | list[tuple[Tensor, ...]],
    *,
    engine: str | None = None,
    tolerance: float = 1e-3,
    batch_sizes: tuple[int, ...] = (1, 2, 5, 8),
) -> float:
    """Reload `path` in a fresh process and compare its answers with `module`'s.

    Args:
        module: the module that was saved.
        path: the file.
        inputs: real inputs `[N, ...]`, cut into batches; or the arguments of each call, including
            batch sizes other than the traced one.
        engine: `torch.backends.quantized.engine` of the fresh process.
        tolerance: largest accepted norm of the difference over the norm of the answer, for
            floating-point outputs; all others must be equal.
        batch_sizes: sizes that one tensor of inputs is cut into.

    Returns:
        The largest relative error over all calls and outputs.

    Raises:
        ParityError: the file does not load, or its answers differ.
    """
    calls = inputs
    if isinstance(calls, Tensor):
        calls = [(calls[:size],) for size in batch_sizes if size <= len(calls)]
    with torch.inference_mode():
        expected = [module(*call) for call in calls]
    worst = 0.0
    for call, answer, reference in zip(
        calls, answers_afresh(path, calls, engine), expected, strict=True
    ):
        pairs = zip(_outputs(answer), _outputs(reference), strict=True)
        error = max(_error(output, target) for output, target in pairs)
        if not error <= tolerance:
            raise ParityError(
                f"{path.name} differs from the module it was saved from at batch {len(call[0])}: "
                f"relative error {error:.2g}, at most {tolerance:.2g} is accepted"
            )
        worst = max(worst, error)
    return worst


def _outputs(answer: Any) -> list[Tensor]:
    """The tensors in an answer: a tensor, or lists, tuples and dicts of tensors."""
    if isinstance(answer, Tensor):
        return [answer]
    parts = answer.values() if isinstance(answer, dict) else answer
    return [tensor for part in parts for tensor in _outputs(part)]


def _error(answer: Tensor, reference: Tensor) -> float:
    """Norm of the difference over the norm of the reference; infinite if shapes or dtypes differ,
    or values that are not floating-point."""
    if answer.shape != reference.shape or answer.dtype != reference.dtype:
        return math.inf
    if not reference.is_floating_point():
        return 0.0 if torch.equal(answer, reference) else math.inf
    return float((answer - reference).norm() / reference.norm().clamp(min=1e-12))


def operators(module: torch.jit.ScriptModule) -> dict[str, int]:
    """The number of times each operator occurs in the graph, sub-blocks included."""
    counts: dict[str, int] = {}
    for line in str(module.inlined_graph).splitlines():
        if " = " in line:
            name = line.split(" = ", 1)[1].split("(")[0].split("[")[0].strip()
            counts[name] = counts.get(name, 0) + 1
    return counts


def describe(path: Path) -> str:
    """Operators and their counts as indented JSON."""
    return json.dumps(operators(load(path)), indent=2, sort_keys=True)
