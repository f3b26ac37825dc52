"""An interpreter for Core ML packages in torch, since Core ML itself exists on Apple's systems only.

A package holds its program in MIL, Core ML's intermediate language, with the types of all values. The program is run as
it was saved, operation by operation, in float32 and 64-bit integers, and every result is rounded or wrapped to its
declared type: rounding in half precision and indices too large for their type show as they would on a phone. What does
not show is the order in which a certain chip adds, and whatever a compiler changes there.

Operations and their arguments follow coremltools' MIL reference (converters.mil.mil.ops.defs, iOS 15 to 18). Those that
the networks here need are implemented; any other raises an error that names it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .mil_operations import OPERATIONS

# By MIL's names. uint16, which torch hardly supports, is wrapped by hand.
TYPES = {
    'fp16': torch.float16, 'fp32': torch.float32, 'bool': torch.bool, 'int8': torch.int8, 'uint8': torch.uint8,
    'int16': torch.int16, 'uint16': torch.int32, 'int32': torch.int32,
}  # fmt: skip


class Program:
    """The program of one function of a package, the default function if it is not named.

    Attributes:
        states: shapes of the states by name; a state is 0 until it is written.

    Raises:
        ValueError: the package has no such function.
    """

    def __init__(self, package: Path, function: str | None = None):
        import coremltools as ct
        from coremltools.converters.mil.frontend.milproto.load import load
        from coremltools.converters.mil.mil import types

        model = ct.models.MLModel(str(package), skip_model_load=True)
        spec = model.get_spec()
        program = load(spec, spec.specificationVersion, model.weights_dir)
        name = function or spec.description.defaultFunctionName or 'main'
        if name not in program.functions:
            raise ValueError(f'{package}: has no function {name}, but {", ".join(program.functions)}')
        self._function = program.functions[name]
        self.states = {
            key: tuple(var.shape) for key, var in self._function.inputs.items() if types.is_state(var.sym_type)
        }
        operations = list(self._function.operations)
        self._last_use = {var.name: i for i, op in enumerate(operations) for var in _variables(op.inputs)}

    def __call__(
        self, inputs: Mapping[str, Tensor], states: Mapping[str, Tensor] | None = None, seen: tuple[str, ...] = ()
    ) -> tuple[dict[str, Tensor], dict[str, list[Any]]]:
        """Run the function.

        Args:
            inputs: by name; images as float (1, 3, H, W), 0..255.
            states: contents of states, by name.
            seen: types of operations whose arguments and results are wanted as well.

        Returns:
            The outputs by name, and for each type in `seen` the (arguments, results) of its operations.

        Raises:
            NotImplementedError: an operation or a type is not implemented.
            IndexError: an index is out of range.
        """
        values = dict(inputs) | {name: torch.zeros(shape) for name, shape in self.states.items()} | dict(states or {})
        values = {name: _declared(value, self._function.inputs[name]) for name, value in values.items()}
        found: dict[str, list[Any]] = {name: [] for name in seen}
        outputs = {var.name for var in self._function.outputs}
        for i, op in enumerate(self._function.operations):
            if op.op_type == 'const':
                continue
            arguments = {key: _value(var, values) for key, var in op.inputs.items() if var is not None}
            results = _run(op, arguments)
            if op.op_type in found:
                found[op.op_type].append((arguments, results))
            values.update({var.name: _declared(x, var) for var, x in zip(op.outputs, results)})
            for var in _variables(op.inputs):
                if self._last_use[var.name] == i and var.name not in outputs:
                    values.pop(var.name, None)
        return {var.name: values[var.name] for var in self._function.outputs}, found


def _run(op: Any, arguments: dict[str, Any]) -> tuple[Tensor, ...]:
    if op.op_type.startswith('constexpr_'):
        return (torch.from_numpy(np.ascontiguousarray(op.materialized_val_inference())),)
    if op.op_type not in OPERATIONS:
        raise NotImplementedError(f'MIL operation {op.op_type} ({op.name})')
    results = OPERATIONS[op.op_type](**arguments)
    results = results if isinstance(results, tuple) else (results,)
    for var, x in zip(op.outputs, results, strict=True):
        if var.rank >= 0 and tuple(var.shape) != tuple(x.shape) and all(isinstance(n, int) for n in var.shape):
            raise ValueError(f'{op.op_type} {op.name}: gives {tuple(x.shape)}, declared is {tuple(var.shape)}')
    return results


def _variables(inputs: Mapping[str, Any]) -> Iterator[Any]:
    for var in inputs.values():
        yield from var if isinstance(var, (list, tuple)) else () if var is None else (var,)


def _value(var: Any, values: Mapping[str, Tensor]) -> Any:
    """Return a variable's value to compute with: a float32, int64 or bool tensor, or a plain constant."""
    if isinstance(var, (list, tuple)):
        return [_value(x, values) for x in var]
    if var.name in values:
        return _wide(values[var.name])
    constant = var.val
    if isinstance(constant, np.ndarray):
        return _wide(torch.from_numpy(np.ascontiguousarray(constant)))
    return constant.item() if isinstance(constant, np.generic) else constant


def _wide(x: Tensor) -> Tensor:
    if x.dtype == torch.bool:
        return x
    return x.to(torch.float32 if x.is_floating_point() else torch.int64)


def _declared(x: Tensor, var: Any) -> Tensor:
    """Round or wrap a value to its variable's declared type."""
    from coremltools.converters.mil.mil import types

    kind = types.builtin_to_string(var.dtype)
    if kind not in TYPES:
        raise NotImplementedError(f'MIL type {kind} ({var.name})')
    if kind == 'uint16':
        x = x.to(torch.int64) % 65536
    return x.to(TYPES[kind])
