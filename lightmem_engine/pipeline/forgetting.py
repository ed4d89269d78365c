"""The very last part of a run of sleep: what is too old or too much goes out of sight, and is deleted later."""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import partial

from lightmem_engine.config_sleep import ForgetConfig
from lightmem_engine.pipeline.means import Means
from lightmem_engine.stores import forget, scrub
from lightmem_engine.types import Scope, SleepRun

_DELETED_PER_WRITE = 64


class Forgetting:
    """Forgets for runs. Belongs to one event loop."""

    def __init__(self, options: ForgetConfig, means: Means) -> None:
        self._options = options
        self._means = means

    async def user(self, run: SleepRun, scope: Scope) -> None:
        """Delete what has been hidden for as long as it is kept, then hide what is beyond the limits: so no run deletes
        what it hid itself."""
        options, db, now = self._options, self._means.db, self._means.clock.now()
        if options.keep_days:
            await self._delete_overdue(scope, now, timedelta(days=options.keep_days))
        if options.expire_days or options.max_entries:
            hide = partial(forget.hide, scope=scope, run=run.id, now=now)
            await db.write(partial(hide, expire_days=options.expire_days, max_entries=options.max_entries))

    async def _delete_overdue(self, scope: Scope, now: datetime, keep: timedelta) -> None:
        db = self._means.db
        gone = await db.read(partial(forget.overdue, scope=scope, now=now, keep=keep))
        for start in range(0, len(gone), _DELETED_PER_WRITE):
            await db.write(partial(forget.delete, scope=scope, ids=gone[start : start + _DELETED_PER_WRITE]))
        if gone:
            await self._means.forget_prompts()
            await scrub.scrub(db.write_alone)
