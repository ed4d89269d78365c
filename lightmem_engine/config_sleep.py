"""Options of sleep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from lightmem_engine.config_fields import check, option


@dataclass(frozen=True, slots=True)
class SleepConfig:
    update: Literal["soft", "online"] = option(
        "soft", "when newer memories change older ones: in sleep, or with every extraction"
    )
    mode: Literal["auto", "rules", "llm"] = option(
        "auto", "who decides: rules alone or the language model too; auto: llm if a model is given"
    )
    queue: Literal["newer", "published"] = option(
        "newer",
        "whom an entry is compared with: its nearest newer ones, or whoever has it among its nearest older ones",
    )
    top_k: int = option(10, "most newer entries an entry is compared with")
    threshold: float = option(
        0.0, "lowest cosine of two entries that the model is asked about; 0: 0.8, or 0.3 for the packaged model"
    )
    max_notes: int = option(0, "most entries shown in one prompt; 0: 24, or 5 for the packaged model")
    answer_tokens: int = option(1024, "longest answer of one call")
    summaries: bool = option(False, "let the language model summarise what happened, window by window")
    summary_window: float = option(3600.0, "seconds that one summary is about, at least")
    summary_notes: int = option(48, "entries that one summary is about, at least, as long as more follow")
    summary_seeds: int = option(15, "earlier entries that a summary recalls")
    idle_seconds: float = option(1800.0, "silence of a user after which a run starts; 0: never")
    after_entries: int = option(500, "new entries of a user that start a run; 0: never")
    every_hours: float = option(0.0, "a run over everybody so often; 0: never")
    max_calls: int = option(1000, "calls of the model in one run; 0: no limit")
    max_tokens: int = option(0, "tokens of one run, prompts and answers; 0: no limit")
    max_seconds: float = option(0.0, "length of one run; 0: no limit")

    def __post_init__(self) -> None:
        check(self.top_k >= 1, "sleep.top_k must be at least 1")
        check(-1 <= self.threshold <= 1, "sleep.threshold must be between -1 and 1")
        check(self.max_notes == 0 or self.max_notes >= 2, "sleep.max_notes must be 0, or at least 2")
        check(self.answer_tokens >= 16, "sleep.answer_tokens must be at least 16")
        check(self.summary_notes >= 1, "sleep.summary_notes must be at least 1")
        check(self.summary_seeds >= 0, "sleep.summary_seeds must be 0 or more")
        check(0 <= self.summary_window < float("inf"), "sleep.summary_window must be 0 or more")
        for name in ("idle_seconds", "after_entries", "every_hours", "max_calls", "max_tokens", "max_seconds"):
            check(getattr(self, name) >= 0, f"sleep.{name} must be 0 or more")


@dataclass(frozen=True, slots=True)
class ForgetConfig:
    """What sleep hides because it is too old or too much, and when that is gone for good."""

    expire_days: float = option(0.0, "age at which an entry expires; 0: never")
    max_entries: int = option(0, "entries of a user in sight; of more, sleep archives the least useful; 0: no limit")
    keep_days: float = option(30.0, "how long what was so hidden can be rolled back; then it is deleted; 0: for ever")

    def __post_init__(self) -> None:
        for name in ("expire_days", "max_entries", "keep_days"):
            check(0 <= getattr(self, name) < float("inf"), f"forget.{name} must be 0 or more")
