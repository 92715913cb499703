"""Model files to callables: one loader per runtime, chosen by the file's suffix.

A runtime is what runs a file: TorchScript, ONNX Runtime, AOTInductor, OpenVINO.
Its loader prepares the worker process (threads, quantized engine), loads the
file without unpickling anything, and returns a function from input tensors to
the model's output. A new runtime is one more sibling of `load_torchscript` and
one more entry of LOADERS.
"""

import ctypes
import importlib
import logging
import sys
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

from handlers.card import Card
from handlers.errors import ModelError

logger = logging.getLogger(__name__)

Predict = Callable[..., Any]

WARM_UP_CALLS = 3

# glibc's malloc.h. Big activations otherwise go back to the kernel after every
# operator and come back as fresh, faulting pages.
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_MAX = -1, -2, -4
_MALLOC_SETTINGS = ((_M_MMAP_MAX, 0), (_M_TRIM_THRESHOLD, 2**31 - 1), (_M_TOP_PAD, 2**28))


def load_model(folder: Path, card: Card) -> Predict:
    """The card's model file as a callable, in a prepared process. Raises ModelError."""
    path = folder / card.model["file"]
    loader = LOADERS.get(path.suffix)
    if loader is None:
        raise ModelError(f"{path.name}: no runtime for it, known are {', '.join(sorted(LOADERS))}")
    if not path.is_file():
        raise ModelError(f"{path} is missing: rebuild the archive with build_mar.sh")
    return loader(path, card)


def load_torchscript(path: Path, card: Card) -> Predict:
    """A TorchScript file, on the card's threads and quantized engine."""
    torch.set_num_threads(card.threads)
    use_quantized_engine(card.model.get("quantized_engine"))
    settle_quantized_notice()
    with warnings.catch_warnings():
        # PyTorch 2.13 warns at every call that TorchScript is deprecated.
        warnings.filterwarnings("ignore", r".*torch\.jit\.", DeprecationWarning)
        try:
            module = torch.jit.load(str(path), map_location="cpu").eval()
        except (RuntimeError, ValueError) as error:
            raise ModelError(f"{path} is not a whole TorchScript file: {error}") from error

    forward = module.forward  # without nn.Module's hooks, 3 us less

    def predict(*tensors: torch.Tensor) -> Any:
        with torch.inference_mode():
            return forward(*tensors)

    return predict


def settle_quantized_notice() -> None:
    """Trigger PyTorch's deprecation warning of quantized tensors now, where it is filtered out.

    It is issued once per process, and filters do not apply while a file is loaded.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"torch\.quantize_per_tensor", UserWarning)
        one = torch.ones(1)
        torch._make_per_channel_quantized_tensor(one.char()[None], one.double(), one.long(), 0)


def load_onnx(path: Path, card: Card) -> Predict:
    """An ONNX file in ONNX Runtime, on the card's threads; inputs in the file's own order."""
    onnxruntime = _extra("onnxruntime", path)
    torch.set_num_threads(card.threads)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = card.threads
    options.inter_op_num_threads = 1
    # Threads that spin between requests take the cores from the other workers.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        session = onnxruntime.InferenceSession(str(path), options, ["CPUExecutionProvider"])
    except Exception as error:  # its errors share no base of their own
        raise ModelError(f"{path} does not load in ONNX Runtime: {error}") from error
    names = [entry.name for entry in session.get_inputs()]
    outputs = [entry.name for entry in session.get_outputs()]

    def predict(*tensors: torch.Tensor) -> Any:
        feeds = {name: t.numpy() for name, t in zip(names, tensors, strict=True)}
        return _tensors(session.run(outputs, feeds))

    return predict


def load_aotinductor(path: Path, card: Card) -> Predict:
    """A package of AOTInductor: native code for one kind of processor, on the card's threads."""
    torch.set_num_threads(card.threads)
    from torch._inductor import aoti_load_package

    try:
        # Workers are processes, and each calls the model from one thread.
        module = aoti_load_package(str(path), run_single_threaded=True)
    except Exception as error:
        raise ModelError(f"{path} is no AOTInductor package for this machine: {error}") from error

    def predict(*tensors: torch.Tensor) -> Any:
        with torch.inference_mode():
            return module(*tensors)

    return predict


def load_openvino(path: Path, card: Card) -> Predict:
    """An OpenVINO IR (.xml, its .bin beside it) on the card's threads.

    OpenVINO would run float models in bfloat16 where the processor can, and give other answers
    than the report's: so it is set to float32, or to the card's `model.precision`.
    """
    openvino = _extra("openvino", path)
    torch.set_num_threads(card.threads)
    if not path.with_suffix(".bin").is_file():
        name = path.with_suffix(".bin").name
        raise ModelError(f"{name} is missing beside {path.name}: the card must list it in files")
    settings = {
        "INFERENCE_NUM_THREADS": card.threads,
        "NUM_STREAMS": 1,
        "PERFORMANCE_HINT": "LATENCY",
        # It would bind its threads to the first cores, in every worker to the same ones.
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": str(card.model.get("precision", "f32")),
    }
    try:
        compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        request = compiled.create_infer_request()
    except Exception as error:
        raise ModelError(f"{path} does not load in OpenVINO: {error}") from error

    outputs = range(len(compiled.outputs))

    def predict(*tensors: torch.Tensor) -> Any:
        # `compiled(inputs)` is as much and takes 90 us longer, to look at its arguments; the
        # asynchronous way runs in another thread, and two workers' may wait for the same core.
        for index, tensor in enumerate(tensors):
            array = tensor.contiguous().numpy()
            request.set_input_tensor(index, openvino.Tensor(array, shared_memory=True))
        request.infer(share_outputs=True)
        # Copies: the next call overwrites them.
        return _tensors([request.get_output_tensor(index).data.copy() for index in outputs])

    return predict


LOADERS: dict[str, Callable[[Path, Card], Predict]] = {
    ".pt": load_torchscript,
    ".onnx": load_onnx,
    ".pt2": load_aotinductor,
    ".xml": load_openvino,
}


def _extra(name: str, path: Path) -> Any:
    """A runtime's package, which only that runtime's files need."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ModelError(f"{path.name} needs {name}: pip install {name} ({error})") from error


def _tensors(arrays: Sequence[Any]) -> Any:
    """Outputs as the TorchScript file would give them: one tensor, or a tuple of several."""
    tensors = tuple(torch.from_numpy(array) for array in arrays)
    return tensors[0] if len(tensors) == 1 else tensors


def use_quantized_engine(name: str | None) -> None:
    """Select PyTorch's engine of a quantized file; under another its first call fails."""
    if name is None:
        return
    if name not in torch.backends.quantized.supported_engines:
        known = ", ".join(torch.backends.quantized.supported_engines)
        raise ModelError(f"this PyTorch has no quantized engine {name!r} (it has {known})")
    torch.backends.quantized.engine = name


def keep_freed_memory() -> bool:
    """Tell glibc to keep freed memory for the next call; False where malloc is another.

    The same as MALLOC_MMAP_MAX_=0, MALLOC_TRIM_THRESHOLD_ and MALLOC_TOP_PAD_ in the
    environment, see mallopt(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL("libc.so.6")
        libc.gnu_get_libc_version  # noqa: B018  absent from musl's compatibility library
        return all(libc.mallopt(option, value) == 1 for option, value in _MALLOC_SETTINGS)
    except (OSError, AttributeError):
        return False


def warm_up(call: Callable[[int], object], sizes: Iterable[int]) -> None:
    """Call with every batch size WARM_UP_CALLS times; ModelError when the model fails.

    TorchScript specialises its graph in the first calls of each new shape.
    """
    for size in sizes:
        for _ in range(WARM_UP_CALLS):
            try:
                call(size)
            except Exception as error:
                raise ModelError(f"the model fails on a batch of {size}: {error}") from error
