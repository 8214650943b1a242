"""One small tokenizer of each kind, as files that a user could bring."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import gin
import sentencepiece
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from tf_codistill.tokenizer import opening
from tf_codistill.tokenizer.paragraphs import ParagraphTokenizer
from tf_codistill.tokenizer.word_pieces import WordPieces

TEXT = [
    f'{who} went to the {where} on day {number}. It wasn\'t cold there -- {who} said: "Oh, the {where}!"'
    for number, who in enumerate(("Anna", "Ben", "Clara", "David", "Emma", "Fred"))
    for where in ("market", "river", "station", "old town")
] + [". .. ... == === aa aaa"] * 3
SPECIAL = "<s> </s> <unk> [UNK] [CLS] <mask> <0x41> <|endoftext|>"


@gin.configurable
@dataclasses.dataclass(frozen=True)
class Letters(ParagraphTokenizer):
    """Each letter is a piece."""

    alphabet: str = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789.,:!?<>[]/_|-'\""

    @property
    def num_pieces(self) -> int:  # type: ignore[override]
        return len(self.alphabet)

    def encode_paragraphs(self, paragraphs: Sequence[str]) -> list[list[int]]:
        return [[self.alphabet.find(letter) for letter in paragraph] for paragraph in paragraphs]

    def decode_paragraph(self, ids: Sequence[int]) -> str:
        return "".join(self.alphabet[index] if index >= 0 else "\ufffd" for index in ids)


def word_pieces(path: str) -> None:
    """Ours."""
    WordPieces.train(TEXT, 110, path)


def sentencepiece_model(path: str, **options: Any) -> None:
    """Anybody's."""
    with open(path, "wb") as file:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(TEXT),
            model_writer=file,
            hard_vocab_limit=False,
            minloglevel=2,
            **{"user_defined_symbols": ["<mask>"], **options},
        )


def bpe(path: str) -> None:
    """As those of Llama are made, with all characters and all spaces."""
    more = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}
    sentencepiece_model(path, vocab_size=360, model_type="bpe", byte_fallback=True, **more)


def unigram(path: str) -> None:
    """As those of T5 are made."""
    sentencepiece_model(path, vocab_size=130, model_type="unigram")


def byte_level(path: str) -> None:
    """As those of GPT-2 are made."""
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    special = ["<s>", "</s>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=330, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_tokens(["<mask>", "    "])
    made.enable_truncation(3)
    made.enable_padding(length=20)
    made.save(path)


def word_piece(path: str) -> None:
    """As those of BERT are made, but for its words, so that ``[CLS]`` is one."""
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer(lowercase=False)
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.decoder = decoders.WordPiece()
    special = ["[UNK]", "[CLS]", "[SEP]"]
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    made.train_from_iterator(TEXT, trainer)
    made.save(path)


def all_at_once(path: str) -> None:
    """As those of XLM-R are made, whose special tokens are as likely as any piece."""
    pieces = [
        ("<s>", 0.0),
        ("<unk>", 0.0),
        ("\u2581", -2.0),
        *((letter, -3.0) for letter in "abcdeg<s>n/[]_"),
    ]
    made = tokenizers.Tokenizer(models.Unigram(pieces, unk_id=1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.add_special_tokens(["<s>", "<unk>"])
    made.save(path)


def own_class(path: str) -> None:
    """A user's own."""
    pathlib.Path(path).write_bytes(opening.as_file(Letters()).content)


KINDS: dict[str, Callable[[str], None]] = {
    "word_pieces.model": word_pieces,
    "sentencepiece.model": bpe,
    "sentencepiece.model unigram": unigram,
    "tokenizer.json": byte_level,
    "tokenizer.json words": word_piece,
    "tokenizer_class.json": own_class,
}
"""What writes a tokenizer of each kind; the first word is the name under which a corpus keeps it."""

LOSSLESS = ("sentencepiece.model", "tokenizer.json")
"""Those that restore every text; so does `WordPieces.encode`, but no document has bytes."""

WITH_OPS = ("word_pieces.model", "sentencepiece.model", "sentencepiece.model unigram")
"""Those that are TensorFlow ops too."""
