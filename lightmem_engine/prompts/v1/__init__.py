"""Version 1 of the prompts: chat, extraction, decisions, summary, and their JSON Schemas.

Pure functions from data to OpenAI-style messages. Frozen once a model is trained on it: a change of one character
is a new version.
"""

from lightmem_engine.prompts.v1.chat import Dated, memory_line, memory_text, own_words, place
from lightmem_engine.prompts.v1.consolidate import decide, summarize
from lightmem_engine.prompts.v1.extract import Numbered, extract, extract_after, repair
from lightmem_engine.prompts.v1.fence import fence, format_date, neutralize, one_line
from lightmem_engine.prompts.v1.schemas import DECIDE, EXTRACT, SUMMARY, ExtractMode, bounded

VERSION = "v1"

__all__ = [
    "DECIDE",
    "EXTRACT",
    "SUMMARY",
    "VERSION",
    "Dated",
    "ExtractMode",
    "Numbered",
    "bounded",
    "decide",
    "extract",
    "extract_after",
    "fence",
    "format_date",
    "memory_line",
    "memory_text",
    "neutralize",
    "one_line",
    "own_words",
    "place",
    "repair",
    "summarize",
]
