"""`python -m tests.kernels.compiled_selection`: the choice of words as a Hopper GPU would run it, compiled without one.

Prints one JSON object per size: shared memory, registers and spills as `compiled_attention` does, and how often the
code multiplies and adds in one rounding, where the compiler was told so (`fma`, in PTX) and in double precision (DFMA).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import triton
from triton.compiler import ASTSource

from lightmem_kernels.selection_kernel import select_words
from lightmem_kernels.triton_selection import LEAST_WORDS, NUM_WARPS
from tests.kernels.compiled_attention import TARGET, figures

KINDS = {"probabilities": "*fp32", "fractions": "*fp64", "keep": "*i8"}


def program(words: int, *, fusion: bool) -> Any:
    """The kernel for chunks of so many words. fusion: as it must not be built."""
    names = select_words.arg_names
    signature = {name: "constexpr" if name == "WORDS" else KINDS.get(name, "*i32") for name in names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if name != "WORDS"}
    source = ASTSource(select_words, signature, {"WORDS": words}, aligned)
    return triton.compile(source, target=TARGET, options={"num_warps": NUM_WARPS, "enable_fp_fusion": fusion})


def programs() -> Iterator[dict[str, Any]]:
    """The shortest chunks, the longest there are, and those once more with what is forbidden."""
    for words, fusion in ((LEAST_WORDS, False), (512, False), (512, True)):
        built = program(words, fusion=fusion)
        yield {"words": words, "fusion": fusion, "fma": built.asm["ptx"].count("fma.rn"), **figures(built)}


if __name__ == "__main__":
    for found in programs():
        print(json.dumps(found))
