"""`python -m tests.support.vllm_greedy CHECKPOINT PROMPTS ANSWERS`: greedy tokens of a real vLLM, float32 on CPU.

PROMPTS is a JSON list of conversations; ANSWERS becomes a JSON list of lists of token ids.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

MAX_TOKENS = 32


def main(checkpoint: str, prompts: str, answers: str) -> None:
    """Answer all conversations with the chat template's thinking off."""
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "VLLM_CPU_KVCACHE_SPACE": "1"}
    from vllm import LLM, SamplingParams

    model = LLM(model=checkpoint, dtype="float32", enforce_eager=True, block_size=32, max_model_len=2048)
    found = model.chat(
        json.loads(Path(prompts).read_text("utf-8")),
        SamplingParams(temperature=0, max_tokens=MAX_TOKENS),
        chat_template_kwargs={"enable_thinking": False},
        use_tqdm=False,
    )
    Path(answers).write_text(json.dumps([list(one.outputs[0].token_ids) for one in found]), "utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
