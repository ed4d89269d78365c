"""`python -m tests.support.vllm_looked CHECKPOINT DATA_DIR OPTIONS`: a real vLLM whose attention is looked at, or not.

OPTIONS is JSON: `{"attention", "layers", "eager", "step_tokens"}`. A line in: a list of `{"contents", "salt", "asks"}`,
what user and assistant say in turn, answered together. A line out, on descriptor 3: per request `{"ids", "text",
"cached"}`: the prompt's token ids, the answer's text, and how many tokens of the prompt were not computed. The first
line is `{"backend", "overridden"}`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from lightmem_engine.config import EngineConfig, replace
from lightmem_engine.vllm_plugin import compat
from lightmem_engine.vllm_plugin.attention.plan import TURNS
from lightmem_engine.vllm_plugin.kept.options import kv_transfer_config
from lightmem_engine.vllm_plugin.settings import PluginSettings

ROLES = ("user", "assistant")


def main(checkpoint: str, data_dir: str, options: str) -> None:
    """Greedy answers until the input ends."""
    asked: dict[str, Any] = json.loads(options)
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    PluginSettings(f"{data_dir}/engine.sock", "secret", attention=asked["attention"]).publish()
    source = "served" if asked["attention"] else "saliency"
    chosen = {"classifier.source": source, "classifier.layers": tuple(asked["layers"]), "kv.min_free_bytes": 0}
    config = replace(EngineConfig(), **chosen)
    from vllm import LLM, SamplingParams

    model = LLM(
        model=checkpoint,
        dtype="float32",
        enforce_eager=asked["eager"],
        block_size=32,
        max_model_len=1024,
        max_num_seqs=4,
        max_num_batched_tokens=asked["step_tokens"],
        enable_chunked_prefill=True,
        prefix_caching_hash_algo="sha256_cbor",
        kv_transfer_config=kv_transfer_config(config, Path(data_dir)),
    )
    answers = os.fdopen(3, "w", encoding="utf-8")

    def write(row: Any) -> None:
        answers.write(json.dumps(row) + "\n")
        answers.flush()

    backend = compat.symbol("AttentionBackendEnum")["CPU_ATTN"]
    write({"backend": backend.get_path(), "overridden": backend.is_overridden()})
    words = model.get_tokenizer()
    for line in sys.stdin:
        prompts: list[Any] = []
        samplings = []
        for request in json.loads(line):
            contents = request["contents"]
            messages = [{"role": ROLES[i % 2], "content": content} for i, content in enumerate(contents)]
            ids = words.apply_chat_template(
                messages, add_generation_prompt=True, enable_thinking=False, tokenize=True, return_dict=True
            )["input_ids"]
            params = {TURNS: contents} if request["asks"] else {}
            prompts.append({"prompt_token_ids": ids, "cache_salt": request["salt"]})
            samplings.append(SamplingParams(temperature=0, max_tokens=6, extra_args={"kv_transfer_params": params}))
        found = model.generate(prompts, samplings, use_tqdm=False)
        write([_told(prompt["prompt_token_ids"], one) for prompt, one in zip(prompts, found, strict=True)])


def _told(ids: list[int], found: Any) -> dict[str, Any]:
    return {"ids": ids, "text": found.outputs[0].text, "cached": found.num_cached_tokens}


if __name__ == "__main__":
    main(*sys.argv[1:])
