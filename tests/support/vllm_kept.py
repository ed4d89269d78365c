"""`python -m tests.support.vllm_kept CHECKPOINT CONFIG [DTYPE [CONTEXT]]`: a real vLLM with kept KV, line by line.

CONFIG is the JSON of `--kv-transfer-config`. A line in: `{"messages", "salt", "params", "max_tokens"?, "reset"?}`. A
line out, on descriptor 3: `{"tokens", "text", "ids", "prompt", "cached", "seconds"}`: the answer's token ids and text,
the prompt's ids, how many these are and how many of them were not computed, and how long it took.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

MAX_TOKENS = 16


def main(checkpoint: str, config: str, dtype: str = "float32", context: str = "2048") -> None:
    """Greedy answers until the input ends."""
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    from vllm import LLM, SamplingParams

    settings: dict[str, Any] = {"kv_transfer_config": json.loads(config)} if config else {}
    model = LLM(
        model=checkpoint,
        dtype=dtype,
        enforce_eager=True,
        block_size=32,
        max_model_len=int(context),
        prefix_caching_hash_algo="sha256_cbor",
        **settings,
    )
    answers = os.fdopen(3, "w", encoding="utf-8")
    answers.write("{}\n")  # ready
    answers.flush()
    for line in sys.stdin:
        asked = json.loads(line)
        ids = model.get_tokenizer().apply_chat_template(
            asked["messages"], add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=True
        )["input_ids"]
        if asked.get("reset"):
            model.reset_prefix_cache()  # what vLLM itself has in memory
        prompt: Any = {"prompt_token_ids": ids} | ({"cache_salt": asked["salt"]} if asked["salt"] else {})
        extra = {"kv_transfer_params": asked["params"]} if asked["params"] else None
        sampling = SamplingParams(temperature=0, max_tokens=asked.get("max_tokens", MAX_TOKENS), extra_args=extra)
        started = time.perf_counter()
        (found,) = model.generate([prompt], sampling, use_tqdm=False)
        seconds = time.perf_counter() - started
        row = {
            "tokens": list(found.outputs[0].token_ids),
            "ids": list(ids),
            "prompt": len(ids),
            "cached": found.num_cached_tokens,
            "seconds": seconds,
        }
        answers.write(json.dumps(row | {"text": found.outputs[0].text}) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
