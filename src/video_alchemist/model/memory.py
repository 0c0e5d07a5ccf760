"""How much memory code takes, known without taking it: it runs on tensors of a shape and no data (the meta device).

    with dry():
        network = make(lambda: AlchemistTransformer(**paper().transformer), torch.bfloat16)  # 25 GB that nobody holds
        with MemoryMeter(network) as meter:
            network(z, t, text_tokens)
    meter.peak

What the code allocates is counted; what a kernel takes for itself (workspaces of a convolution, the allocator's
rounding) is not. Around real tensors the meter counts the same.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

T = TypeVar("T", bound=nn.Module)


class dry(TorchFunctionMode):  # noqa: N801
    """`with dry():` tensors and networks made inside have no data.

    Left alone, attention without data falls apart into products that hold the scores of all pairs of tokens; no
    kernel that runs it on data keeps them.
    """

    def __enter__(self) -> Any:
        self.device = torch.device("meta")
        self.device.__enter__()
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self.device.__exit__(*error)

    def __torch_function__(
        self, func: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is F.scaled_dot_product_attention:
            return _attention(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0, **options: Any
) -> Tensor:
    """The shapes of attention as its kernels do it."""
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype)
    known = {name: options[name] for name in ("is_causal", "scale") if name in options}
    attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return attend(query, key, value, attn_mask=attn_mask, **known)[0]


def make(network: Callable[[], T], dtype: torch.dtype) -> T:
    """A network with weights of this dtype. What its code makes when it runs is not touched."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        return network()
    finally:
        torch.set_default_dtype(before)


class MemoryMeter(TorchDispatchMode):
    """Bytes of the storages made inside: now (`live`) and at most (`peak`). What existed before does not count."""

    def __init__(self, *existing: nn.Module | Tensor) -> None:
        """existing: whose storages the code inside reads."""
        super().__init__()
        self.live = self.peak = 0
        self._sizes: dict[int, int] = {}
        self._existing: list[Any] = []
        for owner in existing:
            for tensor in [owner] if isinstance(owner, Tensor) else [*owner.parameters(), *owner.buffers()]:
                storage = tensor.untyped_storage()
                self._existing.append(storage)  # kept, so that no new storage takes over its address
                self._sizes[storage._cdata] = 0

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += self._sizes[key]
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self.live -= self._sizes.pop(key)


def weight_bytes(network: nn.Module) -> int:
    """Parameters and buffers of a network."""
    return sum(tensor.numel() * tensor.element_size() for tensor in [*network.parameters(), *network.buffers()])
