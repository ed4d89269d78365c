"""Every option of the engine, each written once: its type, default and help.

The command line, the TOML file, the environment and the README table are derived from this tree
(`config_loader`). A section is a frozen dataclass; a value is valid when `__post_init__` accepts it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from lightmem_engine.config_fields import check, option, section
from lightmem_engine.config_kv import KvConfig
from lightmem_engine.config_sensory import ClassifierConfig, CompressConfig, SegmentConfig
from lightmem_engine.config_sleep import ForgetConfig, SleepConfig
from lightmem_engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class DeviceConfig:
    kind: Literal["auto", "cpu", "cuda"] = option("auto", "where models run; auto takes CUDA if there is one")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = option(
        "auto", "arithmetic of the models; auto is float32 on CPU, float16 for encoders on CUDA"
    )
    threads: int = option(0, "CPU threads of the device worker; 0 lets torch decide")
    shared: bool = option(
        False,
        "lm.url computes on the same device: background batches of the encoders are short and stand aside for chats; "
        "set by itself inside vLLM",
    )

    def __post_init__(self) -> None:
        check(self.threads >= 0, "device.threads must be 0 or more")


@dataclass(frozen=True, slots=True)
class EmbedderConfig:
    model: str = option("", "BERT or XLM-R sentence encoder, a path or a hub name; empty: packaged MiniLM")
    stub: bool = option(False, "hash words instead of running a model (tests)")


@dataclass(frozen=True, slots=True)
class LmConfig:
    backend: Literal["auto", "packaged", "qwen", "remote", "stub"] = option(
        "auto",
        "packaged is the small Qwen that comes along, qwen runs lm.model here, remote calls lm.url, stub echoes; auto "
        "decides by what is given",
    )
    model: str = option("", "a Qwen checkpoint (path or hub name), or the model name the server knows")
    url: str = option("", "base URL of an OpenAI-compatible server, ending in /v1")
    api_key: str = option("", "bearer key for lm.url", secret=True)
    timeout_seconds: float = option(120.0, "longest wait for one answer of lm.url")
    disable_thinking: bool = option(
        False, "send chat_template_kwargs.enable_thinking = false to lm.url, which vLLM understands"
    )
    send_priority: bool = option(False, "send the class of a call as `priority` to lm.url, which vLLM understands")
    send_salt: bool = option(
        False,
        "lm.url is the server that chats go to, and keeps caches apart by `cache_salt`, which vLLM understands: calls "
        "in background share the caches of their own user's chats and nobody else's",
    )
    pauses: bool = option(False, "lm.url itself lets calls of low priority stand still while users wait")
    tells_attention: bool = option(
        False, "lm.url itself tells how it attends between the turns of its chats (set by serve inside vLLM)"
    )
    slots: int = option(0, "sequences that lm.url runs at once, some of which background work leaves free; 0: unknown")
    verify_tls: bool = option(True, "check the certificate of lm.url")
    cache_bytes: int = option(256 * 1024 * 1024, "memory for prefix caches of the in-process model")

    def __post_init__(self) -> None:
        check(self.backend != "qwen" or bool(self.model), "lm.backend = qwen needs lm.model")
        check(self.backend != "remote" or bool(self.url), "lm.backend = remote needs lm.url")
        check(self.timeout_seconds > 0, "lm.timeout_seconds must be above 0")
        check(self.slots >= 0, "lm.slots must be 0 or more")
        check(self.cache_bytes >= 0, "lm.cache_bytes must be 0 or more")


@dataclass(frozen=True, slots=True)
class ShortTermConfig:
    threshold: int = option(512, "tokens of closed segments that start an extraction; 0: every segment")
    idle_seconds: float = option(60.0, "silence of a session after which its open segment closes")

    def __post_init__(self) -> None:
        check(self.threshold >= 0, "short_term.threshold must be 0 or more")
        check(self.idle_seconds > 0, "short_term.idle_seconds must be above 0")


@dataclass(frozen=True, slots=True)
class ExtractConfig:
    mode: Literal["auto", "extractive", "llm"] = option(
        "auto",
        "extractive stores compressed turns, llm asks the model for facts; auto: llm if a model is given",
    )
    form: Literal["flat", "event"] = option(
        "flat", "what the model is asked for: facts, or facts, relations and entities in one call"
    )
    prefix: bool = option(
        True,
        "ask about a conversation behind its own prompt, which the model has just read, where that computes less",
    )
    max_words: int = option(120, "longest stretch of a message that becomes one extractive entry")
    max_tokens: int = option(2048, "longest answer of one extraction call")

    def __post_init__(self) -> None:
        check(self.max_words >= 16, "extract.max_words must be at least 16")
        check(self.max_tokens >= 64, "extract.max_tokens must be at least 64")


@dataclass(frozen=True, slots=True)
class SearchConfig:
    index_strategy: Literal[
        "embedding", "context", "graph", "embedding+context", "embedding+graph", "context+graph", "hybrid"
    ] = option(
        "hybrid",
        "embedding: vectors; context: BM25 with neighbouring turns; graph: what was said around a memory, and a walk "
        "from the names in the question; hybrid: all three",
    )
    half_life_days: float = option(0.0, "age at which an entry ranks as half as recent; 0: age does not matter")

    def __post_init__(self) -> None:
        check(0 <= self.half_life_days < float("inf"), "search.half_life_days must be 0 or more")


@dataclass(frozen=True, slots=True)
class ChatConfig:
    top_k: int = option(10, "most memories recalled for one chat turn")
    max_tokens: int = option(512, "token budget of what one turn recalls")
    budget_ms: float = option(0.0, "time for recall before a turn; 0: 50 on CUDA, measured at start on CPU")
    store_tool_results: bool = option(False, "remember what tools return in a chat, too")

    def __post_init__(self) -> None:
        check(self.top_k >= 0, "chat.top_k must be 0 or more")
        check(self.max_tokens >= 0, "chat.max_tokens must be 0 or more")
        check(0 <= self.budget_ms < float("inf"), "chat.budget_ms must be 0 or more")


@dataclass(frozen=True, slots=True)
class BlockConfig:
    max_tokens: int = option(256, "token budget of the memory block of a chat session; 0: no block")

    def __post_init__(self) -> None:
        check(self.max_tokens >= 0, "block.max_tokens must be 0 or more")


@dataclass(frozen=True, slots=True)
class MemoryConfig:
    timezone: str = option("UTC", "zone of users whose timestamps name none (IANA name)")

    def __post_init__(self) -> None:
        try:
            ZoneInfo(self.timezone)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ConfigError(f"memory.timezone: no such zone {self.timezone!r}") from error


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    batch_tokens: int = option(
        0,
        "most tokens in one foreground batch of a model, four times a background one's; 0: 4096 (CPU) or 65536",
    )
    max_queued_tokens: int = option(4_000_000, "work a device may have waiting before it refuses more")
    max_background: int = option(4, "background language-model calls in flight")
    max_attempts: int = option(3, "tries before a failing batch is split, and before a single item is parked")
    backoff_seconds: float = option(0.5, "first pause before a retry; doubles up to a minute")
    cached_users: int = option(1024, "users whose search index stays in memory")
    failpoint: str = option("", "crash tests: name:n kills the process at the n-th pass of a named place")

    def __post_init__(self) -> None:
        check(self.batch_tokens == 0 or self.batch_tokens >= 512, "runtime.batch_tokens must be 0 or at least 512")
        check(self.max_queued_tokens >= max(512, self.batch_tokens), "runtime.max_queued_tokens is below one batch")
        check(self.max_background >= 1, "runtime.max_background must be at least 1")
        check(self.max_attempts >= 1, "runtime.max_attempts must be at least 1")
        check(self.backoff_seconds > 0, "runtime.backoff_seconds must be above 0")
        check(self.cached_users >= 1, "runtime.cached_users must be at least 1")


@dataclass(frozen=True, slots=True)
class IdentityConfig:
    trust: Literal["header", "body", "user"] = option(
        "user",
        "who may name the user: header = X-Memory-User-Id alone; body = also memory.user_id; user = also OpenAI's user",
    )
    keys: str = option("", "TOML file with API keys and their tenants; empty: no keys, one tenant, loopback only")


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    url: str = option("", "an OpenAI-compatible server to put memory in front of; empty: the model runs here")
    api_key: str = option("", "bearer key for upstream.url, in place of the client's", secret=True)
    connect_seconds: float = option(10.0, "longest wait for a connection to upstream.url")
    read_seconds: float = option(600.0, "longest silence of upstream.url")
    max_connections: int = option(512, "connections to upstream.url")

    def __post_init__(self) -> None:
        check(
            not self.url or self.url.startswith(("http://", "https://")),
            "upstream.url must begin with http:// or https://",
        )
        check(self.connect_seconds > 0, "upstream.connect_seconds must be above 0")
        check(self.read_seconds > 0, "upstream.read_seconds must be above 0")
        check(self.max_connections >= 1, "upstream.max_connections must be at least 1")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on")
    max_body_bytes: int = option(16 * 1024 * 1024, "largest request accepted")
    max_chats: int = option(256, "chats under way at once; more get 503")
    max_requests: int = option(256, "other requests under way at once; more get 503")
    send_seconds: float = option(60.0, "a client that takes nothing for so long is cut off")
    log_format: Literal["text", "json"] = option("text", "log lines for people or for machines")

    def __post_init__(self) -> None:
        check(0 <= self.port <= 65535, "server.port must be between 0 and 65535")
        check(self.max_body_bytes >= 1024, "server.max_body_bytes must be at least 1024")
        check(self.max_chats >= 1, "server.max_chats must be at least 1")
        check(self.max_requests >= 1, "server.max_requests must be at least 1")
        check(self.send_seconds > 0, "server.send_seconds must be above 0")


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """The whole tree. Build one in code, or with `config_loader.load`."""

    data_dir: str = option("", "where memory is kept; empty: lightmem-engine under the XDG data directory")
    device: DeviceConfig = section(DeviceConfig, "hardware")
    memory: MemoryConfig = section(MemoryConfig, "defaults of a user's memory")
    classifier: ClassifierConfig = section(ClassifierConfig, "sensory memory: scoring words")
    compress: CompressConfig = section(CompressConfig, "sensory memory: compression")
    segment: SegmentConfig = section(SegmentConfig, "sensory memory: topic boundaries")
    embedder: EmbedderConfig = section(EmbedderConfig, "vectors")
    short_term: ShortTermConfig = section(ShortTermConfig, "short-term memory")
    extract: ExtractConfig = section(ExtractConfig, "from segments to entries")
    sleep: SleepConfig = section(SleepConfig, "what newer memories do to older ones, while nobody waits")
    forget: ForgetConfig = section(ForgetConfig, "what goes out of sight")
    search: SearchConfig = section(SearchConfig, "recall")
    chat: ChatConfig = section(ChatConfig, "chat with memory")
    block: BlockConfig = section(BlockConfig, "what a chat session knows from its beginning")
    lm: LmConfig = section(LmConfig, "the language model")
    kv: KvConfig = section(KvConfig, "KV caches that live as long as the memory they were made of")
    runtime: RuntimeConfig = section(RuntimeConfig, "devices, batches and retries")
    identity: IdentityConfig = section(IdentityConfig, "users and API keys")
    upstream: UpstreamConfig = section(UpstreamConfig, "the model server behind the gateway")
    server: ServerConfig = section(ServerConfig, "the HTTP server")


def replace(config: EngineConfig, **changes: Any) -> EngineConfig:
    """A copy with dotted options changed: `replace(config, **{"lm.url": "http://..."})`."""
    for path, value in changes.items():
        head, _, tail = path.partition(".")
        if tail:
            config = dataclasses.replace(config, **{head: dataclasses.replace(getattr(config, head), **{tail: value})})
        else:
            config = dataclasses.replace(config, **{head: value})
    return config
