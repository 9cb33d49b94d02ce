"""Counts the bytes of living tensors while code runs, on fake tensors as on real ones.

torch has a tracker of its own (`torch.distributed._tools.mem_tracker`), which hangs its figures on
modules; here they hang on moments of a step, which is what an estimate is made of.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

Moment = tuple[int, str]
"""A part of a step: which pass through the trunk (0 in the forward pass), and where in it."""


@dataclass
class Peak:
    """The most that lived in one moment, in bytes.

    Attributes:
        everything: All tensors.
        without_kept: All but those that were set aside.
    """

    everything: int = 0
    without_kept: int = 0


class LiveMemory(TorchDispatchMode):
    """Follows every tensor that is made inside this context until it is freed.

    Args:
        uncounted: Operations whose results are left out.

    Attributes:
        live: Bytes that live now.
        peaks: The most that lived in each moment that was entered.
    """

    def __init__(self, uncounted: Collection[Any] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._uncounted = frozenset(uncounted)
        self.live = 0
        self.peaks: dict[Moment, Peak] = {}
        self._kept = 0
        self._sizes: dict[int, int] = {}
        self._set_aside: set[int] = set()
        self.enter((0, "start"))

    def enter(self, moment: Moment) -> None:
        """Files what lives from now on under another moment."""
        self._peak = self.peaks.setdefault(moment, Peak())
        self._note()

    def ignore(self, *tensors: Tensor) -> None:
        """Leaves tensors out, and views of them."""
        for tensor in tensors:
            self._add(tensor, 0)

    def set_aside(self, tensor: Tensor) -> None:
        """Leaves a tensor out of the second of the two figures from now on."""
        key = tensor.untyped_storage()._cdata
        if key in self._sizes and key not in self._set_aside:
            self._set_aside.add(key)
            self._kept += self._sizes[key]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Runs an operation and counts what it makes."""
        result = func(*args, **(kwargs or {}))
        if func.namespace == "prim":
            # Questions to fake tensors about their device.
            return result
        for leaf in tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                is_counted = func not in self._uncounted
                self._add(leaf, leaf.untyped_storage().nbytes() if is_counted else 0)
        self._note()
        return result

    def _add(self, tensor: Tensor, size: int) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = size
            self.live += size
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        size = self._sizes.pop(key)
        self.live -= size
        if key in self._set_aside:
            self._set_aside.discard(key)
            self._kept -= size

    def _note(self) -> None:
        peak = self._peak
        peak.everything = max(peak.everything, self.live)
        peak.without_kept = max(peak.without_kept, self.live - self._kept)
