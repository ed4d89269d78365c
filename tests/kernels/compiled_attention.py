"""`python -m tests.kernels.compiled_attention`: the kernels as a Hopper GPU would run them, compiled without one.

Prints one JSON object per kernel and tiling: shared memory in bytes, registers per thread, and how often the machine
code spills (LDL, STL) and multiplies on tensor cores (HGMMA: the ones of Hopper, HMMA: the old ones).
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import triton
from triton.backends import nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from lightmem_kernels.attention_kernels import denominators, fold_tile
from lightmem_kernels.triton_attention import MODES, TILINGS, Tiling

TARGET = GPUTarget("cuda", 90, 32)
TOOL = Path(str(nvidia.__file__)).parent / "bin" / "cuobjdump"
KINDS = {"q": "*bf16", "k": "*bf16", "lse": "*fp32", "out": "*fp32", "scale": "fp32"}
KINDS |= dict.fromkeys(("seg_q", "seg_k", "tiles"), "*i32")
UNALIGNED = ("scale", "key_tiles", "stride_out", "stride_row")  # all else is a pointer, or a multiple of 16


def compiled(kernel: Any, constants: Mapping[str, Any], tiling: Tiling) -> Any:
    """The kernel for bf16 inputs with these constants."""
    names = kernel.arg_names
    signature = {name: "constexpr" if name in constants else KINDS.get(name, "i32") for name in names}
    aligned = [i for i, name in enumerate(names) if name not in constants and name not in UNALIGNED]
    source = ASTSource(kernel, signature, dict(constants), {(i,): [["tt.divisibility", 16]] for i in aligned})
    options = {"num_warps": tiling.num_warps, "num_stages": tiling.num_stages, "enable_fp_fusion": True}
    return triton.compile(source, target=TARGET, options=options)


def figures(program: Any) -> dict[str, int]:
    """What the machine code says of itself."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(program.asm["cubin"])
        file.flush()
        code = _dump("-sass", file.name)
        usage = re.search(r"REG:(\d+)", _dump("-res-usage", file.name))
    assert usage is not None
    counts = {name: len(re.findall(rf"\b{name}\b", code)) for name in ("LDL", "STL", "HGMMA", "HMMA", "DFMA")}
    return {"shared": program.metadata.shared, "registers": int(usage[1]), **counts}


def _dump(what: str, file: str) -> str:
    return subprocess.run([str(TOOL), what, file], capture_output=True, text=True, check=True).stdout


def programs() -> Iterator[dict[str, Any]]:
    """Every tiling that is shipped, in every mode: an encoder's shape at width 64, a decoder's at 128."""
    for width, tiling in TILINGS.items():
        heads, group, causal = (12, 1, False) if width == 64 else (28, 7, True)
        common = {"GROUP": group, "DIM": width, "QUERIES": tiling.queries, "KEYS": tiling.keys, "CAUSAL": causal}
        common["UPCAST"] = False
        for mode, number in MODES.items():
            constants = {**common, "HEADS": heads, "MODE": number, "SPLIT": True}
            yield {"kernel": f"fold_tile {width} {mode}", **figures(compiled(fold_tile, constants, tiling))}
        yield {"kernel": f"denominators {width}", **figures(compiled(denominators, common, tiling))}


if __name__ == "__main__":
    for found in programs():
        print(json.dumps(found))
