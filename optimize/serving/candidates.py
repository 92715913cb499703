"""The network as other runtimes' files, written in a process of its own.

ONNX is exported once; its int8 form and OpenVINO's files are made from it in tenths of a second.
`optimize.export` writes OpenVINO's int8 by NNCF instead, where that is installed.
"""

import dataclasses
import importlib.util
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from optimize.errors import ExportRefused, ExtraMissing
from optimize.export.formats import registry
from optimize.export.formats.interface import FLOAT32, INT8, Limits
from optimize.export.runner import QUIET
from optimize.export.subject import Subject
from optimize.utils import child, files, pickles
from optimize.utils.child import Child, ChildError, Ended, TimedOut

_MODULE = "optimize.serving.candidates"
_NEEDS = {
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "openvino": ("openvino", "onnx", "onnxscript", "onnxruntime"),
}
CALIBRATION = 16  # batches: half of what `optimize export` takes, in half the time
_SUFFIXES = {"onnx": ".onnx", "openvino": ".xml", "aoti": ".pt2"}


def runtime(name: str) -> str:
    """`openvino` of `openvino-int8`."""
    return name.partition("-")[0]


def limits(name: str) -> Limits:
    """How far a candidate's answers may be from the float module's."""
    return INT8 if name.endswith("-int8") else FLOAT32


def missing(name: str) -> str | None:
    """Why a candidate cannot be made in this environment; None where it can."""
    kind = runtime(name)
    if kind in _NEEDS:
        absent = [m for m in _NEEDS[kind] if importlib.util.find_spec(m) is None]
        return f"not installed: {', '.join(absent)}" if absent else None
    try:
        registry.load(kind)
    except ExtraMissing as error:
        return str(error)
    return None


class Maker:
    """Writes candidates of one subject; close it, or use it in a `with` block."""

    def __init__(self, subject: Subject) -> None:
        self._private = files.private()
        self._scratch = self._private.__enter__()
        self._child: Child | None = None
        few = dataclasses.replace(subject, calibration=subject.calibration[:CALIBRATION])
        pickles.save(few, self._scratch / "subject.pt")

    def make(self, name: str, folder: Path, seconds: float) -> Path:
        """Write `folder/NAME/model.SUFFIX` within `seconds`; returns its path.

        Raises:
            ExportRefused: it cannot be converted, or not within the time.
        """
        path = folder / name / f"model{_SUFFIXES[runtime(name)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            if self._child is None:
                self._child = Child(_MODULE, str(self._scratch), environment=QUIET, seconds=seconds)
            self._child.ask((name, path.absolute()), seconds)
        except (Ended, TimedOut) as error:
            self._end_child()
            late = isinstance(error, TimedOut)
            why = f"not written within {seconds:.0f} s" if late else f"its converter {error}"
            raise ExportRefused(why) from error
        except ChildError as error:
            raise ExportRefused(f"it cannot be converted: {error}") from error
        return path

    def _end_child(self) -> None:
        if self._child is not None:
            self._child.close()
        self._child = None

    def __enter__(self) -> "Maker":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._end_child()
        self._private.__exit__(kind, error, trace)


def write(name: str, subject: Subject, path: Path, scratch: Path) -> None:
    """Write one candidate; ONNX files that others are made from stay in `scratch`."""
    kind, _, precision = name.partition("-")
    precision = precision or "float32"
    if kind == "aoti":
        registry.load(kind).export(subject, path, precision)
        return
    source = _onnx(precision, subject, scratch)
    if kind == "onnx":
        shutil.copyfile(source, path)
        return
    import openvino

    openvino.save_model(openvino.convert_model(str(source)), str(path), compress_to_fp16=False)


def _onnx(precision: str, subject: Subject, scratch: Path) -> Path:
    from optimize.export.formats import onnx

    path = scratch / f"{precision}.onnx"
    if path.exists():
        return path
    with tempfile.TemporaryDirectory(dir=scratch) as aside:
        made = Path(aside) / path.name
        if precision == "float32":
            onnx.write(subject.module, subject, made)
        else:
            onnx.quantize(subject, _onnx("float32", subject, scratch), made)
        made.replace(path)
    return path


def _start(scratch: str) -> Callable[[tuple[str, Path]], None]:
    """The child's side."""
    subject = pickles.load(Path(scratch) / "subject.pt")

    def answer(question: tuple[str, Path]) -> None:
        name, path = question
        write(name, subject, path, Path(scratch))

    return answer


if __name__ == "__main__":
    child.serve(_start)
