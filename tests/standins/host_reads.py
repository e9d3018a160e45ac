"""Counts operations that make the host wait for a GPU, and all operations, in a block of code.

A stand-in for a GPU: the block runs on the CPU, and what would wait if its tensors were on a GPU is
counted, wherever it happens: reading a number or an array, and operations whose result's size
depends on values.
"""

from __future__ import annotations

import traceback
from collections import Counter
from types import TracebackType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten
WAITING_OPERATIONS = {
    _aten._local_scalar_dense.default,  # item, bool, int, float
    _aten.nonzero.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.unique_consecutive.default,
    _aten.masked_select.default,
    _aten.equal.default,
    _aten.is_nonzero.default,
    _aten.bincount.default,
    _aten.repeat_interleave.Tensor,
}
_READS = {torch.Tensor.tolist, torch.Tensor.numpy, torch.Tensor.cpu}
_VIEWS = {_aten.detach.default, _aten.alias.default}


class HostReads:
    """Context manager.

    Attributes:
        reads: (operation, place in Prooftune or a library) -> count.
        operations: number of operations that would be kernels on a GPU.
    """

    def __init__(self) -> None:
        self.reads: Counter[tuple[str, str]] = Counter()
        self.operations = 0
        self._modes = (_Functions(self), _Dispatch(self))

    @property
    def count(self) -> int:
        return sum(self.reads.values())

    def __enter__(self) -> HostReads:
        for mode in self._modes:
            mode.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for mode in reversed(self._modes):
            mode.__exit__(kind, error, trace)  # type: ignore[no-untyped-call]

    def note(self, operation: str) -> None:
        files = [
            f"{frame.filename.split('site-packages/')[-1].split('/src/')[-1]}:{frame.lineno}"
            for frame in traceback.extract_stack()
            if "standins" not in frame.filename and "site-packages/torch/" not in frame.filename
        ]
        self.reads[operation, files[-1]] += 1


class _Functions(TorchFunctionMode):
    def __init__(self, owner: HostReads) -> None:
        self._owner = owner

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _READS:
            self._owner.note(func.__name__)
        return func(*args, **(kwargs or {}))


class _Dispatch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    supports_higher_order_operators = True  # FlexAttention, which counts as one operation

    def __init__(self, owner: HostReads) -> None:
        self._owner = owner

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        indices = args[1] if func in (_aten.index.Tensor, _aten.index_put_.default) else ()
        if func in WAITING_OPERATIONS or any(
            index is not None and index.dtype == torch.bool for index in indices
        ):
            self._owner.note(str(func))
        is_view = getattr(func, "is_view", False) or func in _VIEWS
        self._owner.operations += not is_view
        return func(*args, **(kwargs or {}))
