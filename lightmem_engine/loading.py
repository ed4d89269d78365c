"""From a configuration to loaded models. What a model needs is imported when it is chosen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lightmem_engine.config import EngineConfig
from lightmem_engine.errors import ConfigError
from lightmem_engine.protocols import Embedder, LanguageModel, TokenClassifier
from lightmem_engine.runtime.device import Device, choose

if TYPE_CHECKING:
    from lightmem_engine.models.served_attention import ServedAttention

_IN_PROCESS = frozenset(("qwen", "packaged"))


@dataclass(frozen=True, slots=True)
class Encoders:
    """The two models of the sensory stage, on one device, and what compresses messages one by one if configured.

    served: what the language model is to note of the chats it reads, if that is asked for.
    """

    classifier: TokenClassifier
    embedder: Embedder
    device: Device
    shorten: Callable[[Sequence[str]], list[str]] | None = None
    served: ServedAttention | None = None


def load_encoders(config: EngineConfig) -> Encoders:
    """Classifier and embedder, sharing one set of weights where they are the same checkpoint."""
    from lightmem_engine.models.stub_encoder import StubClassifier, StubEmbedder

    if config.embedder.stub and config.classifier.source == "stub":
        idle = Device("cpu", "float32", "stub encoders need no device")
        return Encoders(StubClassifier(config.classifier.window_tokens), StubEmbedder(), idle)
    device = choose(config.device)  # before anything else imports torch
    import torch

    from lightmem_engine.models import lingua_messages
    from lightmem_engine.models.checkpoint import locate
    from lightmem_engine.models.encoder import Encoder, SentenceEmbedder
    from lightmem_engine.models.packaged import packaged_minilm

    dtype = getattr(torch, device.dtype)
    sentence: Encoder | None = None
    if not (config.embedder.stub and config.classifier.source not in ("saliency", "served")):
        checkpoint = locate(config.embedder.model) if config.embedder.model else packaged_minilm()
        sentence = Encoder(checkpoint, device=device.kind, dtype=dtype)
    embedder: Embedder = StubEmbedder() if config.embedder.stub or sentence is None else SentenceEmbedder(sentence)
    classifier: TokenClassifier
    shorten: Callable[[Sequence[str]], list[str]] | None = None
    match config.classifier.source:
        case "stub":
            classifier = StubClassifier(config.classifier.window_tokens)
        case "llmlingua":
            classifier, shorten = lingua_messages.load(config, device.kind, dtype)
        case "entropy":
            classifier = _entropy(config, device)
        case "saliency" | "served" as source:
            from lightmem_engine.models.saliency import SaliencyClassifier
            from lightmem_engine.models.served_attention import ServedAttention, ServedClassifier

            assert sentence is not None
            layers, edges = config.classifier.layers if source == "saliency" else (), config.segment.edge_tokens
            classifier = SaliencyClassifier(sentence, layers=layers, edge_tokens=edges)
            if source == "served":
                if choose_lm(config)[0] not in _IN_PROCESS and not config.lm.tells_attention:
                    raise ConfigError(
                        "classifier.source = served needs a language model in this process (lm.model) or inside vLLM"
                    )
                served = ServedAttention()
                return Encoders(ServedClassifier(classifier, served), embedder, device, served=served)
    return Encoders(classifier, embedder, device, shorten)


def _entropy(config: EngineConfig, device: Device) -> TokenClassifier:
    """The causal model that classifier.model names, or the language model's own weights or server."""
    from lightmem_engine.models.entropy import EntropyClassifier
    from lightmem_engine.models.packaged import packaged_micro_qwen
    from lightmem_engine.models.remote_entropy import RemoteEntropyClassifier

    lm, source = config.lm, config.classifier.model
    if not source:
        match choose_lm(config)[0]:
            case "remote":
                return RemoteEntropyClassifier(
                    _remote_url(config), lm.model, api_key=_remote_key(config), timeout_seconds=lm.timeout_seconds
                )
            case "qwen":
                source = lm.model
            case "packaged":
                source = str(packaged_micro_qwen().directory)
            case backend:
                raise ConfigError(f"classifier.source = entropy needs classifier.model; lm.backend is {backend}")
    import torch

    dtype = torch.bfloat16 if device.kind == "cuda" else getattr(torch, device.dtype)
    layers, edges = config.classifier.layers, config.segment.edge_tokens
    return EntropyClassifier.load(source, device=device.kind, dtype=dtype, layers=layers, edge_tokens=edges)


def _remote_url(config: EngineConfig) -> str:
    return config.lm.url or f"{config.upstream.url.rstrip('/').removesuffix('/v1')}/v1"


def _remote_key(config: EngineConfig) -> str:
    return config.lm.api_key or ("" if config.lm.url else config.upstream.api_key)


def choose_lm(config: EngineConfig) -> tuple[str, str]:
    """The language model's backend and why it was chosen."""
    lm = config.lm
    if lm.backend != "auto":
        return lm.backend, "set by lm.backend"
    if lm.url:
        return "remote", "auto: lm.url is set"
    if config.upstream.url:
        return "remote", "auto: upstream.url is set"
    if lm.model:
        return "qwen", "auto: lm.model is set"
    return "packaged", "auto: neither lm.model nor lm.url is set"


def load_lm(config: EngineConfig, device: Device, served: ServedAttention | None = None) -> LanguageModel:
    """The configured language model. Raises `ConfigError` if it cannot be loaded.

    served: where a model in this process notes the attention between the turns of its chats.
    """
    lm = config.lm
    backend, _ = choose_lm(config)
    if served is not None:
        from lightmem_engine.models.served_attention import Reader

        reader: Reader | None = Reader(served, config.classifier.layers)
    else:
        reader = None
    match backend:
        case "remote":
            from lightmem_engine.models.remote import RemoteModel

            return RemoteModel(
                _remote_url(config),
                lm.model,
                api_key=_remote_key(config),
                timeout_seconds=lm.timeout_seconds,
                send_priority=lm.send_priority,
                send_salt=lm.send_salt,
                verify_tls=lm.verify_tls,
                template_options={"enable_thinking": False} if lm.disable_thinking else None,
            )
        case "qwen":
            from lightmem_engine.models.qwen import QwenModel

            dtype = "bfloat16" if device.kind == "cuda" else device.dtype
            return QwenModel.load(lm.model, device=device.kind, dtype=dtype, cache_bytes=lm.cache_bytes, reader=reader)
        case "packaged":
            from lightmem_engine.models.packaged import MICRO_QWEN, packaged_micro_qwen
            from lightmem_engine.models.qwen import QwenModel

            directory = str(packaged_micro_qwen().directory)
            return QwenModel.load(
                directory, device=device.kind, cache_bytes=lm.cache_bytes, name=MICRO_QWEN, reader=reader
            )
        case "stub":
            from lightmem_engine.models.stub_lm import StubModel

            return StubModel()
        case unknown:
            raise ConfigError(f"lm.backend: unknown {unknown!r}")
