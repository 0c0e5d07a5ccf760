"""What we use of diffusers that is private to it: what its caches must know of a block, and its hooks of offloading."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffusers.hooks import _helpers
from torch import nn


def register_block(block: type[nn.Module]) -> None:
    """For diffusers' lossy caches (First-Block, MagCache): x comes first, and the result is one tensor like it.

    Entered by hand, as the registry's own method imports thirty other models; where a version of diffusers has no such
    registry, only these caches are lost.
    """
    if hasattr(_helpers, "TransformerBlockRegistry"):
        _helpers.TransformerBlockRegistry._registry[block] = _helpers.TransformerBlockMetadata(
            return_hidden_states_index=0,
            hidden_states_argument_name="x",
            _cls=block,
            _cached_parameter_indices={"x": 0, "hidden_states": 0},  # First-Block does not ask for the name
        )


@contextmanager
def onloaded(module: nn.Module) -> Iterator[None]:
    """Offloading brings a module's weights to the device for its forward; this does so for another method of it."""
    registry: Any = getattr(module, "_diffusers_hook", None)
    group = None if registry is None else registry.get_hook("group_offloading")
    # accelerate's hook is that of model and sequential offloading.
    hooks: list[Any] = [hook for hook in (getattr(module, "_hf_hook", None), group) if hook is not None]
    for hook in hooks:
        hook.pre_forward(module)
    if group is not None and group.group.stream is not None:
        group.group.stream.synchronize()
    try:
        yield
    finally:
        for hook in hooks:
            hook.post_forward(module, None)
