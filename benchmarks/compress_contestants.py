"""The contestants of the compression benchmark: each builds one file (or folder) from the same
float model and calibration data, and later loads it as a callable on one tensor."""

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks import compress_zoo

Call = Callable[[Tensor], Tensor]
SERVED = "served:"
"""Before a contestant's name: its file, loaded as a worker loads it."""


def _trace(model: nn.Module, example: Tensor, path: Path) -> None:
    with torch.no_grad():
        traced = torch.jit.trace(model, example, check_trace=False)
        torch.jit.freeze(traced).save(str(path))


def build_torchscript(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    _trace(model, data[0][:2], path)


def build_ours(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    from optimize.lowering import Lowered, lower_int8
    from optimize.quantization import kernels
    from optimize.utils import torchscript

    def build(tried: kernels.Kernels) -> Lowered:
        return lower_int8(
            model,
            data[:1],
            engine=tried.engine,
            hot_batch=tried.hot_batch,
            attention=tried.attention,
            ranges="minmax",
        )

    loads = {"batch1": data[0][:1], "batch8": data[0]}
    found = kernels.fastest(build, loads, other_engine=not kernels.has_groups(model))
    best = found.kernels if found is not None else kernels.Kernels()
    lowered = lower_int8(model, data, engine=best.engine, hot_batch=HOT, attention=best.attention)
    torchscript.save(torchscript.script(lowered, data[0][:2]), path)
    _engine_file(path).write_text(lowered.engine)


def _engine_file(path: Path) -> Path:
    """Beside our file: the quantized engine that it was packed for."""
    return path.with_suffix(".engine")


def _is_ids(example: Tensor) -> bool:
    return not example.is_floating_point()


def _dynamic_axes(data: list[Tensor]) -> dict[int, object]:
    """The axes of any size: the batch, and the length of ids."""
    batch = torch.export.Dim("batch", max=64)
    if not _is_ids(data[0]):
        return {0: batch}
    return {0: batch, 1: torch.export.Dim("length", min=2, max=512)}


def _export_onnx(model: nn.Module, data: list[Tensor], path: Path) -> None:
    torch.onnx.export(
        model,
        (data[0][:2],),
        str(path),
        dynamo=True,
        external_data=False,
        input_names=["x"],
        dynamic_shapes=(_dynamic_axes(data),),
    )


def build_onnxruntime(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    plain, ready = path.with_suffix(".float.onnx"), path.with_suffix(".ready.onnx")
    _export_onnx(model, data, plain)
    if kind == "transformer":
        q.quantize_dynamic(plain, path, per_channel=True, weight_type=q.QuantType.QInt8)
        return
    quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)

    class Reader(q.CalibrationDataReader):
        def __init__(self) -> None:
            self.remaining = [x[i : i + 1].numpy() for x in data for i in range(len(x))]

        def get_next(self) -> dict[str, object] | None:
            return {"x": self.remaining.pop()} if self.remaining else None

    q.quantize_static(
        ready,
        path,
        Reader(),
        quant_format=q.QuantFormat.QDQ,
        per_channel=True,
        activation_type=q.QuantType.QUInt8,
        weight_type=q.QuantType.QInt8,
    )


def build_openvino_bf16(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    import openvino as ov

    ov.save_model(_to_openvino(model, data), path, compress_to_fp16=False)


def _to_openvino(model: nn.Module, data: list[Tensor]) -> object:
    import openvino as ov

    shape = [-1, -1] if _is_ids(data[0]) else [-1, *data[0].shape[1:]]
    return ov.convert_model(model, example_input=data[0][:2], input=[shape])


def build_openvino_int8(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    import nncf
    import openvino as ov

    one_by_one = [x[i : i + 1].numpy() for x in data for i in range(len(x))]
    quantized = nncf.quantize(
        _to_openvino(model, data),
        nncf.Dataset(one_by_one),
        preset=nncf.QuantizationPreset.MIXED,
        subset_size=len(one_by_one),
        model_type=nncf.ModelType.TRANSFORMER if kind == "transformer" else None,
    )
    ov.save_model(quantized, path, compress_to_fp16=False)


def build_aoti(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    import torch._inductor.config as inductor
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    shapes = (_dynamic_axes(data),)
    with torch.no_grad():
        exported = torch.export.export(model, (data[0][:2],), dynamic_shapes=shapes).module()
        quantizer = X86InductorQuantizer()
        quantizer.set_global(get_default_x86_inductor_quantization_config())
        prepared = prepare_pt2e(exported, quantizer)
        for batch in data:
            prepared(batch)
        converted = convert_pt2e(prepared)
        inductor.freezing = True
        inductor.cpp_wrapper = True
        quantized = torch.export.export(converted, (data[0][:2],), dynamic_shapes=shapes)
        torch._inductor.aoti_compile_and_package(quantized, package_path=str(path))


def load_eager(model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool) -> Call:
    return model


def load_torchscript(
    model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool
) -> Call:
    return torch.jit.load(str(path))


def load_ours(model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool) -> Call:
    torch.backends.quantized.engine = _engine_file(path).read_text()
    return torch.jit.load(str(path))


def load_served(path: Path, threads: int) -> Call:
    """A file as a worker loads it: `handlers.backend`'s loaders and settings."""
    from optimize.evaluation.session import served

    ours = _engine_file(path)
    call: Call = served(path, ours.read_text() if ours.exists() else None, threads)
    return call


def load_onnxruntime(
    model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool
) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def load_openvino(
    model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool, **config: str
) -> Call:
    import openvino as ov

    core = ov.Core()
    network = core.read_model(path)
    if not varied:
        network.reshape(list(example.shape))
    options = {"INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY", **config}
    request = core.compile_model(network, "CPU", options).create_infer_request()

    def call(x: Tensor) -> Tensor:
        output = request.infer([x.numpy()], share_inputs=True, share_outputs=True)
        return torch.from_numpy(next(iter(output.values())))

    return call


def load_openvino_bf16(
    model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool
) -> Call:
    return load_openvino(model, path, threads, example, varied, INFERENCE_PRECISION_HINT="bf16")


def load_aoti(model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool) -> Call:
    return torch._inductor.aoti_load_package(str(path))


def load_compile(model: nn.Module, path: Path, threads: int, example: Tensor, varied: bool) -> Call:
    import torch._inductor.config as inductor

    inductor.freezing = True
    return torch.compile(copy.deepcopy(model), dynamic=True if varied else None)


def _build_nothing(model: nn.Module, kind: str, data: list[Tensor], path: Path) -> None:
    """For contestants that need no file."""


# Of ours and of what `serving: {engines: auto}` races against it.
CANDIDATES = ("onnxruntime", "openvino_int8", "aoti")
HOT = 8  # the serving batch
# name -> (file suffix, build, load)
CONTESTANTS = {
    "eager": ("", _build_nothing, load_eager),
    "torchscript": (".pt", build_torchscript, load_torchscript),
    "ours": (".ours.pt", build_ours, load_ours),
    "onnxruntime": (".onnx", build_onnxruntime, load_onnxruntime),
    "openvino_int8": (".int8.xml", build_openvino_int8, load_openvino),
    "openvino_bf16": (".bf16.xml", build_openvino_bf16, load_openvino_bf16),
    "aoti": (".pt2", build_aoti, load_aoti),
    "compile": ("", _build_nothing, load_compile),
}


def load(
    model: str, contestant: str, threads: int, work: Path, example: Tensor, varied: bool
) -> Call:
    """A contestant as a callable on one tensor, to be called in inference mode.

    Args:
        model: its name in the zoo.
        contestant: its name, perhaps after SERVED; its file lies in `work`.
        threads: of each call.
        work: the work folder.
        example: an input; unless `varied`, every call has its shape.
        varied: the inputs differ in length.
    """
    torch.set_num_threads(threads)
    if contestant.startswith(SERVED):
        name = contestant.removeprefix(SERVED)
        return load_served(work / f"{model}{CONTESTANTS[name][0]}", threads)
    suffix, _, loader = CONTESTANTS[contestant]
    float_model: nn.Module = nn.Identity()
    if contestant in ("eager", "compile"):
        float_model = compress_zoo.load(model, work)
    with torch.inference_mode():
        return loader(float_model, work / f"{model}{suffix}", threads, example, varied)
