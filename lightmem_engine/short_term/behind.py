"""The `prefix` form of extraction: the question asked behind the conversation that the model has just read.

Of its prompt the model computes the question alone, where its cache of the conversation is still there. It is asked so
where that is less than the other form would take, and only about turns that all stand in that conversation.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from lightmem_engine.prompts import v1
from lightmem_engine.protocols_kv import KnowsCaches
from lightmem_engine.runtime.finished import Conversation
from lightmem_engine.types import Prompt, Scope, Turn


@dataclass(frozen=True, slots=True)
class Behind:
    """conversation: what was said last in a session, if it is known.   model: which knows what it would compute.
    gone: how many tokens of a thread of conversation that it has read it would have to read again."""

    conversation: Callable[[Scope, str], Conversation | None]
    model: KnowsCaches
    gone: Callable[[int], int] = lambda _: 0

    async def prompt(self, turns: Sequence[Turn], mode: v1.ExtractMode, instead_of: Prompt) -> Prompt | None:
        """The prompt about these turns, if it costs less than the other one."""
        if len({(turn.scope, turn.session) for turn in turns}) != 1:
            return None
        said = self.conversation(turns[0].scope, turns[0].session)
        if said is None or not _contains(said, turns):
            return None
        numbered = [v1.Numbered(turn.speaker, turn.text, turn.event_time) for turn in turns]
        schema = v1.bounded(mode, [turn.text for turn in turns])
        prompt = Prompt(tuple(v1.extract_after(said.messages, numbered, mode)), schema, salt=said.salt)
        cost = await self._cost(prompt, said)
        other = None if cost is None else await self.model.uncached(instead_of, 0)
        return prompt if cost is not None and other is not None and cost < other else None

    async def _cost(self, prompt: Prompt, said: Conversation) -> int | None:
        """Tokens that the model would compute: what it has not read, and what is gone of the rest."""
        cost = await self.model.uncached(prompt, said.num_read)
        return None if cost is None else cost + (self.gone(said.thread) if said.thread else 0)


def _contains(said: Conversation, turns: Sequence[Turn]) -> bool:
    """Whether every turn stands in the conversation, in this order, in its own words."""
    rest = iter(said.messages)
    return all(any(_says(message, turn) for message in rest) for turn in turns)


def _says(message: object, turn: Turn) -> bool:
    if not isinstance(message, dict) or message.get("role") != turn.role:
        return False
    content = message.get("content")
    return isinstance(content, str) and content[v1.own_words(content) :].strip() == turn.text.strip()
