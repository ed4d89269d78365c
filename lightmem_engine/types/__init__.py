"""The nouns of the engine. Data only; every time is an aware `datetime`."""

from lightmem_engine.types.base import (
    KINDS,
    ROLES,
    STATES,
    FinishReason,
    Floats,
    Kind,
    Priority,
    Role,
    State,
    Vector,
    Vectors,
)
from lightmem_engine.types.chats import Block, ChatAsk, ChatItem, ChatOpened, ChatPlace, ChatView, Injection, Note
from lightmem_engine.types.conversation import Message, Scope, Turn, TurnDraft
from lightmem_engine.types.entries import EntryChange, EntryDraft, EntryPage, MemoryEntry, Source
from lightmem_engine.types.language import Completion, Delta, Prompt, Sampling, TokenLogprob, Usage
from lightmem_engine.types.recall import Columns, Hit, IndexDoc
from lightmem_engine.types.sensing import Piece, Segment, SensedTurn, Window, WindowScores, Word
from lightmem_engine.types.turns import OpenTurn, TurnOptions

__all__ = [
    "KINDS",
    "ROLES",
    "STATES",
    "Block",
    "ChatAsk",
    "ChatItem",
    "ChatOpened",
    "ChatPlace",
    "ChatView",
    "Columns",
    "Completion",
    "Delta",
    "EntryChange",
    "EntryDraft",
    "EntryPage",
    "FinishReason",
    "Floats",
    "Hit",
    "IndexDoc",
    "Injection",
    "Kind",
    "MemoryEntry",
    "Message",
    "Note",
    "OpenTurn",
    "Piece",
    "Priority",
    "Prompt",
    "Role",
    "Sampling",
    "Scope",
    "Segment",
    "SensedTurn",
    "Source",
    "State",
    "TokenLogprob",
    "Turn",
    "TurnDraft",
    "TurnOptions",
    "Usage",
    "Vector",
    "Vectors",
    "Window",
    "WindowScores",
    "Word",
]
