"""torch's tensors: their storages are parts, so that tensors of one storage stay that.

torch pickles a storage into the stream (torch/storage.py, ``TypedStorage.__reduce__``); gradients
are not pickled at all.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np

from pagemerge.data.parts import Part
from pagemerge.errors import UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]


def is_storage(kind: type) -> bool:
    """Is this torch's type of untyped bytes?"""
    torch = sys.modules.get("torch")
    return torch is not None and issubclass(kind, torch.UntypedStorage)


def part_of_storage(storage: Any) -> Part:
    """The part of an untyped storage. Raises ``UsageError`` if it is not on the CPU."""
    if storage.device.type != "cpu":
        raise UsageError(
            f"a tensor is on the device {storage.device.type}: only memory of the CPU can be "
            "merged; move it with .cpu() first"
        )
    return Part("storage", storage, storage.data_ptr(), storage.nbytes())


def storage_on(data: Bytes) -> Any:
    """An untyped storage on ``data`` (u8), which it keeps alive."""
    import torch

    if len(data) == 0:
        return torch.UntypedStorage(0)
    return torch.frombuffer(data, dtype=torch.uint8).untyped_storage()


def reduced(obj: object) -> tuple[Any, ...] | None:
    """Take a tensor or a typed storage apart; None for everything else."""
    torch = sys.modules.get("torch")
    if torch is None:
        return None
    if isinstance(obj, torch.TypedStorage):
        return _typed, (obj._untyped_storage, obj.dtype)
    if not isinstance(obj, torch.Tensor):
        return None
    if not obj.is_leaf:
        raise UsageError(
            "a tensor is the result of operations that gradients flow through: detach() it first"
        )
    made = obj.__reduce_ex__(5)
    if obj.grad is None:
        return tuple(made)
    return (*made[:2], (*made[2:3], obj.grad), None, None, _set_gradient)


def _typed(untyped: Any, dtype: Any) -> Any:
    import torch

    return torch.TypedStorage(wrap_storage=untyped, dtype=dtype, _internal=True)


def _set_gradient(tensor: Any, state: tuple[Any, ...]) -> None:
    tensor.grad = state[-1]
