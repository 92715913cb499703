"""Evaluates a Core ML ML Program with torch, for checks on Linux, where Core ML does not run.

A `.mlpackage` describes its computation as MIL operators over named values. Each operator is
evaluated as coremltools documents it, and every float16 value is rounded to float16, so that what
overflows in the file overflows here. This does not show how Apple's kernels round inside an
operator, or whether a device accepts the file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optimize.export.formats.interface import Array
from optimize.export.formats.mil_operators import OPERATORS, TYPES, Arguments

Tap = Callable[[Any, Tensor], Tensor]
"""From an operator and its only output to the value to continue with."""


class Program:
    """A loaded `.mlpackage`; calling it evaluates its main function."""

    def __init__(self, path: Path) -> None:
        import coremltools
        from coremltools.converters.mil.frontend.milproto import load
        from coremltools.converters.mil.mil import types

        model = coremltools.models.MLModel(str(path), skip_model_load=True)
        spec = model.get_spec()
        program = load.load(spec, spec.specificationVersion, model.weights_dir)
        self.function = program.functions["main"]
        self.inputs = list(self.function.inputs.values())
        self.outputs = list(self.function.outputs)
        self._name = types.builtin_to_string
        self._constants: dict[str, Any] = {}
        self._steps = [op for op in self.function.operations if not self._constant(op)]
        self._last = self._last_uses()

    def _last_uses(self) -> list[list[str]]:
        """For every step the values that no later step reads, except outputs."""
        needed = {*self._constants, *(variable.name for variable in self.outputs)}
        last: list[list[str]] = []
        for op in reversed(self._steps):
            read = [*op.outputs]
            for variable in op.inputs.values():
                read += variable if isinstance(variable, list | tuple) else [variable]
            names = {variable.name for variable in read if variable is not None}
            last.append(sorted(names - needed))
            needed |= names
        return last[::-1]

    def _constant(self, op: Any) -> bool:
        """Store a constant, decompressed, float16 widened; False if `op` is not constant."""
        if op.op_type.startswith("constexpr"):
            value = op.materialized_val_inference()
        elif op.op_type == "const":
            value = op.outputs[0].val
        else:
            return False
        half = getattr(value, "dtype", None) == np.float16
        self._constants[op.outputs[0].name] = value.astype(np.float32) if half else value
        return True

    def type_of(self, variable: Any) -> torch.dtype:
        """The type of a value in the file."""
        return TYPES[self._name(variable.dtype)]

    def __call__(self, *arrays: Array, tap: Tap | None = None) -> list[Array]:
        """Evaluate.

        Args:
            arrays: the inputs in order; cast to the types in the file.
            tap: called for every operator with one output; its result replaces that output.

        Raises:
            NotImplementedError: an operator is not in `OPERATORS`.
        """
        values = dict(self._constants)
        for variable, array in zip(self.inputs, arrays, strict=True):
            values[variable.name] = torch.from_numpy(array).to(self.type_of(variable))

        def value(variable: Any) -> Any:
            if isinstance(variable, list | tuple):
                return [value(item) for item in variable]
            if variable is None:
                return None
            return values.get(variable.name, variable.val)

        with torch.inference_mode():
            for op, unused in zip(self._steps, self._last, strict=True):
                if op.op_type not in OPERATORS:
                    raise NotImplementedError(f"the MIL operator {op.op_type} is not known here")
                arguments = Arguments({name: value(of) for name, of in op.inputs.items()})
                result = OPERATORS[op.op_type](arguments)
                if tap and isinstance(result, Tensor):
                    result = tap(op, result)
                outputs = [result] if isinstance(result, Tensor) else result
                for variable, output in zip(op.outputs, outputs, strict=True):
                    # In the file's type, so that what overflows float16 there is infinite here.
                    values[variable.name] = output.to(self.type_of(variable))
                del arguments, result, outputs, output
                for name in unused:
                    values.pop(name, None)  # attention over 30 s of audio takes gigabytes
            return [values[variable.name].float().numpy() for variable in self.outputs]

    def operators(self) -> list[str]:
        """Names of all operators except constants."""
        return [op.op_type for op in self.function.operations if op.op_type != "const"]
