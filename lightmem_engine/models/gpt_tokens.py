"""How many tokens GPT-3.5 makes of a text: LLMLingua-2 weighs words by it."""

from __future__ import annotations

from collections.abc import Callable

from lightmem_engine.errors import BackendUnavailable, ConfigError

FILE = "9b5ad71b2ce5302211f9c61530b329a4922fc6a4"  # how tiktoken's cache names cl100k_base.tiktoken


def load_counter() -> Callable[[str], int]:
    """The counting function; no text is refused by it, whatever control words it contains.

    Raises:
        ConfigError: the package tiktoken is missing.
        BackendUnavailable: its table of tokens is neither in `TIKTOKEN_CACHE_DIR` nor can it be downloaded.
    """
    try:
        import tiktoken
    except ImportError as error:
        raise ConfigError(
            "classifier.mode = per_message weighs words by GPT-3.5 tokens and needs the package tiktoken: "
            "pip install 'lightmem-engine[llmlingua]'"
        ) from error
    try:
        encoding = tiktoken.encoding_for_model("gpt-3.5-turbo")
    except (OSError, ValueError) as error:  # a download that failed, or one that is damaged
        raise BackendUnavailable(
            f"tiktoken's table cl100k_base cannot be downloaded ({error}); without network, put it as a file called "
            f"{FILE} into a folder and name that in TIKTOKEN_CACHE_DIR"
        ) from error
    return lambda text: len(encoding.encode(text, disallowed_special=()))
