"""Random-weight BERT and XLM-R checkpoints of a few thousand parameters, with real tokenizers of both kinds.

WordPiece's and Unigram's own trainers break ties at random, so that a test would meet other tokens in every run. Pairs
are merged the same way every time: both vocabularies are made of the pieces that byte-pair encoding finds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import (
    BertConfig,
    BertForTokenClassification,
    BertModel,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
    XLMRobertaForTokenClassification,
    XLMRobertaModel,
)

Family = Literal["bert", "xlm-roberta"]

CORPUS = [
    "Caroline moved to Denver on 8 May 2023, and she isn't unhappy about the mountains.",
    "Did you remember the self-care workshop? It's on Tuesday at 10:30 (really).",
    "He painted; she photographed. They walked, talked and remembered unforgettable evenings!",
]


def tokenizer(family: Family, corpus: Sequence[str] = CORPUS, vocab_size: int = 160) -> Any:
    """WordPiece with "##", or Unigram with "▁", over pieces of a few sentences."""
    return (_wordpiece if family == "bert" else _unigram)(corpus, vocab_size)


def _wordpiece(corpus: Sequence[str], vocab_size: int) -> Any:
    """Every piece can begin a word, and go on with one."""
    normalizer, splitter = normalizers.BertNormalizer(lowercase=False), pre_tokenizers.BertPreTokenizer()
    pieces = _pieces(corpus, (vocab_size - 5) // 2, normalizer, splitter)
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces, *(f"##{piece}" for piece in pieces)]
    words = Tokenizer(models.WordPiece({piece: id for id, piece in enumerate(vocabulary)}, unk_token="[UNK]"))
    words.normalizer, words.pre_tokenizer, words.decoder = normalizer, splitter, decoders.WordPiece()
    words.add_special_tokens(vocabulary[:5])
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=words, mask_token="[MASK]", **names)


def _unigram(corpus: Sequence[str], vocab_size: int) -> Any:
    """The earlier a piece was found, the likelier it is, about as words are by their rank."""
    normalizer, splitter = normalizers.NFKC(), pre_tokenizers.Metaspace()
    specials = ["<s>", "<pad>", "</s>", "<unk>"]
    pieces = _pieces(corpus, vocab_size - len(specials), normalizer, splitter)
    vocabulary = [(name, 0.0) for name in specials] + [(piece, -math.log(10 + n)) for n, piece in enumerate(pieces)]
    words = Tokenizer(models.Unigram(vocabulary, unk_id=3))
    words.normalizer, words.pre_tokenizer, words.decoder = normalizer, splitter, decoders.Metaspace()
    words.add_special_tokens(specials)
    names = {"bos_token": "<s>", "eos_token": "</s>", "cls_token": "<s>", "sep_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=words, pad_token="<pad>", unk_token="<unk>", **names)


def _pieces(corpus: Sequence[str], most: int, normalizer: Any, splitter: Any) -> list[str]:
    """The characters of the corpus, and what they were merged to."""
    pairs = Tokenizer(models.BPE())
    pairs.normalizer, pairs.pre_tokenizer = normalizer, splitter
    pairs.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=most, show_progress=False))
    return sorted(pairs.get_vocab(), key=pairs.get_vocab().__getitem__)


def save(
    folder: Path,
    family: Family = "bert",
    *,
    labels: int = 0,
    seed: int = 0,
    positions: int = 512,
    words: Any = None,
    heads: int = 4,
) -> Path:
    """Write a checkpoint for so many tokens, 24 numbers each; `labels` adds a token-classification head, `words` is its
    tokenizer."""
    words = words or tokenizer(family)
    sizes: dict[str, Any] = {
        "vocab_size": len(words) + 100,  # LLMLingua-2 checkpoints have a hundred spare rows
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 3,
        "num_attention_heads": heads,
        "initializer_range": 0.5,
        "pad_token_id": words.pad_token_id,
        "num_labels": labels or 2,
    }
    torch.manual_seed(seed)
    model: Any
    if family == "bert":
        bert = BertConfig(**sizes, max_position_embeddings=positions)
        model = BertForTokenClassification(bert) if labels else BertModel(bert)
    else:
        offset = int(words.pad_token_id) + 1
        roberta = XLMRobertaConfig(**sizes, max_position_embeddings=positions + offset, type_vocab_size=1)
        model = XLMRobertaForTokenClassification(roberta) if labels else XLMRobertaModel(roberta)
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
