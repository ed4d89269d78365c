"""vLLM's attention backends, with one who looks on. vLLM calls `register` in each of its processes.

Nothing is put in their place unless the launcher said that attention is wanted. Then the chosen backend is a subclass
of vLLM's own under the same name: it computes what it always computes, and shows queries and cache to whoever
`watched` says, which is nobody while no request asks. This works under torch.compile, which does not look into the
attention, and between the pieces of CUDA graphs.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch

from lightmem_engine.vllm_plugin import compat
from lightmem_engine.vllm_plugin.settings import VARIABLE, received

MEMBERS = ("CPU_ATTN", "FLASH_ATTN", "TRITON_ATTN")

Look = Callable[[Any, Any, torch.Tensor, torch.Tensor, Any], None]


class Watched:
    """Who looks on in this process. vLLM makes connector and backends apart; they meet here."""

    look: Look | None = None


_made: dict[str, Any] = {}


def register() -> None:
    """Entry point of `vllm.general_plugins`. Any number of times; without the launcher's word it does nothing."""
    if VARIABLE in os.environ and received().attention:
        override()


def override() -> None:
    """Put our subclasses in the place of vLLM's backends, in this process."""
    known = compat.symbol("AttentionBackendEnum").__members__
    for name in MEMBERS:
        if name in known:
            compat.symbol("register_backend")(known[name], f"{__name__}.{name}")


def __getattr__(name: str) -> Any:
    """The backend class of a member, made when vLLM asks for it by its path."""
    if name not in MEMBERS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name not in _made:
        _made[name] = _looked_on(compat.load(compat.symbol("AttentionBackendEnum")[name].value))
    return _made[name]


def _looked_on(backend: Any) -> Any:
    class Impl(backend.get_impl_cls()):  # type: ignore[misc]
        """As the backend's own."""

        def forward(
            self,
            layer: Any,
            query: torch.Tensor,
            key: torch.Tensor,
            value: torch.Tensor,
            kv_cache: torch.Tensor,
            attn_metadata: Any,
            *args: Any,
            **options: Any,
        ) -> Any:
            """As the backend's own, and a look."""
            found = super().forward(layer, query, key, value, kv_cache, attn_metadata, *args, **options)
            if Watched.look is not None:
                Watched.look(self, layer, query, kv_cache, attn_metadata)
            return found

    class Backend(backend):  # type: ignore[misc]
        """As vLLM's own, with that."""

        @staticmethod
        def get_impl_cls() -> Any:
            """The one that shows."""
            return Impl

    Backend.__name__ = backend.__name__
    return Backend
