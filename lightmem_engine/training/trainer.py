"""The training loop: one process, a budget of minutes, a curriculum that moves on when answers come out exact."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO

import torch
from torch.nn import functional as F
from transformers import AutoTokenizer, Qwen3ForCausalLM

from lightmem_engine.errors import ConfigError
from lightmem_engine.prompts import v1
from lightmem_engine.training import tokenizer as tokenizers
from lightmem_engine.training.encode import Batch, Encoder, batches
from lightmem_engine.training.examples import LEVELS
from lightmem_engine.training.model import begin_as_copier, configuration, optimizers

_STATE = "trainer.pt"
_LOG = "train.jsonl"
_LOG_EVERY = 25  # steps
_SAVE_SECONDS = 60.0
_WARMUP_STEPS = 60
_DECAY = 0.35  # the last share of the budget, over which the rate falls to a twentieth
_SMOOTHING = 0.98
_MIN_STEPS = 60  # the fewest on one level
_MAX_STEPS = 2500  # the most, so that no level uses up the budget of those after it


@dataclass(frozen=True, slots=True)
class Plan:
    """What a training run is; all of it is recorded with the weights.

    minutes: of this run; a resumed run adds to what was trained.   batch_tokens: padded, per step.
    """

    seed: int = 1
    minutes: float = 60.0
    hidden: int = 192
    layers: int = 5
    heads: int = 6
    inner: int = 512
    context: int = 4096
    batch_tokens: int = 2048
    rate: float = 2e-3
    vocabulary: int = tokenizers.VOCABULARY
    bf16: bool = True


@dataclass(slots=True)
class Progress:
    """How far training has come. exact: task -> smoothed share of answers with every token right."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    level: int = 0
    level_step: int = 0
    exact: dict[str, float] = field(default_factory=dict)

    def note(self, task: str, is_exact: float) -> None:
        """Take in the share of one batch."""
        before = self.exact.get(task, 0.0)
        self.exact[task] = before + (1 - _SMOOTHING) * (is_exact - before)

    def advance(self) -> bool:
        """Go to the next level if this one is learned, or has had its time; says whether it did."""
        is_last = self.level + 1 == len(LEVELS)
        is_learned = self.level_step >= _MIN_STEPS and self.exact.get("chat", 0.0) >= LEVELS[self.level].exact
        if is_last or not (is_learned or self.level_step >= _MAX_STEPS):
            return False
        self.level, self.level_step = self.level + 1, 0
        return True


class Trainer:
    """A run in a folder. An unfinished run in it is resumed; its plan's sizes must be the same.

    tokenizer: for a new run; None builds one from the plan's seed.
    """

    def __init__(self, folder: Path, plan: Plan, commit: str = "unknown", tokenizer: Any = None) -> None:
        self.folder = folder
        self.plan = plan
        self.commit = commit
        self.progress = Progress()
        torch.manual_seed(plan.seed)
        resumed = (folder / _STATE).is_file()
        if resumed:
            tokenizer = AutoTokenizer.from_pretrained(folder)
        self.tokenizer = tokenizer or tokenizers.build(str(plan.seed), size=plan.vocabulary)
        self.encoder = Encoder(self.tokenizer)
        self._config = configuration(
            self.tokenizer,
            hidden=plan.hidden,
            layers=plan.layers,
            heads=plan.heads,
            inner=plan.inner,
            context=plan.context,
        )
        self.model: Any = Qwen3ForCausalLM(self._config)
        begin_as_copier(self.model)
        self._optimizers = optimizers(self.model, plan.rate)
        self._rates = [group["lr"] for optimizer in self._optimizers for group in optimizer.param_groups]
        self._data: Iterator[Batch] | None = None
        if resumed:
            self._resume()

    def run(self) -> Progress:
        """Train for the plan's minutes; writes a checkpoint now and then and at the end, a log line every few steps."""
        self.folder.mkdir(parents=True, exist_ok=True)
        started = saved = time.monotonic()
        before = self.progress.seconds
        first_step = self.progress.step
        budget = self.plan.minutes * 60
        with (self.folder / _LOG).open("a", encoding="utf-8") as log:
            while (elapsed := time.monotonic() - started) < budget:
                self._set_rates(min(1.0, (self.progress.step - first_step + 1) / _WARMUP_STEPS), elapsed / budget)
                loss = self.step()
                self.progress.seconds = before + elapsed
                if self.progress.step % _LOG_EVERY == 0:
                    self._write(log, loss)
                if time.monotonic() - saved > _SAVE_SECONDS:
                    self.save()
                    saved = time.monotonic()
        self.save()
        return self.progress

    def step(self) -> float:
        """One batch; returns its loss in nats per learned token."""
        batch = self._next()
        self.model.train()
        with torch.autocast("cpu", torch.bfloat16, enabled=self.plan.bf16):
            loss, right = learn(self.model, batch)
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self._optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        progress = self.progress
        progress.step += 1
        progress.level_step += 1
        progress.tokens += batch.ids.numel()
        for task, share in right.items():
            progress.note(task, share)
        if progress.advance():
            self._data = None
        return float(loss.detach())

    def save(self) -> None:
        """Checkpoint, tokenizer and `lightmem.json` for anybody, the optimizer's state for a later run."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.model.save_pretrained(self.folder)
        self.tokenizer.save_pretrained(self.folder)
        record = {
            "prompt_version": v1.VERSION,
            "data_seed": self.plan.seed,
            "commit": self.commit,
            "plan": asdict(self.plan),
            "progress": asdict(self.progress),
        }
        (self.folder / "lightmem.json").write_text(json.dumps(record, indent=2) + "\n", "utf-8")
        state = {"progress": asdict(self.progress), "optimizers": [o.state_dict() for o in self._optimizers]}
        torch.save(state, self.folder / _STATE)

    def _resume(self) -> None:
        model: Any = Qwen3ForCausalLM.from_pretrained(self.folder, dtype=torch.float32)
        mine, theirs = self._config.to_dict(), model.config.to_dict()
        sizes = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
        if any(mine[size] != theirs[size] for size in sizes):
            raise ConfigError(f"{self.folder} holds a model of other sizes than this plan; choose another folder")
        self.model.load_state_dict(model.state_dict())
        state = torch.load(self.folder / _STATE, weights_only=True)
        self.progress = Progress(**state["progress"])
        for optimizer, saved in zip(self._optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def _next(self) -> Batch:
        if self._data is None:
            seed = f"{self.plan.seed} from {self.progress.step}"
            self._data = batches(self.encoder, seed, self.progress.level, self.plan.batch_tokens)
        return next(self._data)

    def _set_rates(self, warmth: float, share: float) -> None:
        decay = 1.0 if share < 1 - _DECAY else 0.05 + 0.95 * (1 - share) / _DECAY
        rates = iter(self._rates)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = next(rates) * warmth * decay

    def _write(self, log: TextIO, loss: float) -> None:
        exact = {task: round(share, 3) for task, share in self.progress.exact.items()}
        row = {**asdict(self.progress), "seconds": round(self.progress.seconds), "loss": round(loss, 4), "exact": exact}
        log.write(json.dumps(row) + "\n")
        log.flush()


def learn(model: Any, batch: Batch) -> tuple[torch.Tensor, dict[str, float]]:
    """Mean cross entropy over the learned tokens, and by task the share of answers predicted without a mistake.

    A repeated random sequence has no one answer; for it the share is of tokens.
    """
    hidden = model.model(input_ids=batch.ids, use_cache=False).last_hidden_state
    rows = torch.cat([torch.full((end - start,), row) for row, start, end, _ in batch.answers])
    places = torch.cat([torch.arange(start, end) for _, start, end, _ in batch.answers])
    wanted = batch.ids[rows, places]
    logits = model.lm_head(hidden[rows, places - 1]).float()
    loss = F.cross_entropy(logits, wanted)
    hits = (logits.detach().argmax(-1) == wanted).split([end - start for _, start, end, _ in batch.answers])
    right: dict[str, list[float]] = {}
    for hit, (_, _, _, task) in zip(hits, batch.answers, strict=True):
        right.setdefault(task, []).append(float(hit.float().mean() if task == "induction" else hit.all()))
    return loss, {task: sum(found) / len(found) for task, found in right.items()}
