"""Training on text as it is, without preparing a corpus: for small experiments.

    files, a document each or one per line -----+
    any iterable of strings, such as WET records+-- tf.data -- encode_document, in graph -- Split in memory

    tokenizer = open_tokenizer("corpus/word_pieces.model")
    texts = text_files(glob.glob("novels/*.txt"), document="file")
    split = tokenized(texts, tokenizer.in_graph().encode_document, tokenizer.vocabulary_size)
    model.fit(language.dataset(language.LaneStream(split, seed=1, num_lanes=64)), steps_per_epoch=100)

A `Split` is what a corpus directory is read as, too, so lanes, epochs, groups and workers are the same from
here on, and batches are a function of the step: a resumed run tokenizes again, then continues where it was.
A tokenizer without ops says so; of its ids `tokens.split_in_memory` makes the same split.
The ids of all documents are held in memory, two bytes each; for more text than that, prepare a corpus. Of WET
files, the records of `corpus.wet` go in; this module knows strings only:

    texts = texts_of(found.text for found in read_wet("CC-MAIN-....warc.wet.gz") if isinstance(found, Record))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import tensorflow as tf

from tf_codistill import tokens

DOCUMENTS = ("file", "line")

_TEXTS_AT_ONCE = 64


def text_files(paths: Sequence[str], document: str) -> tf.data.Dataset:
    """The documents of text files.

    Args:
        paths: Paths or URLs of UTF-8 files; the order of the documents follows theirs.
        document: ``file`` if each file is a document with a paragraph per line, ``line`` if each line is a
            document; empty lines are none.

    Returns:
        string, one text after another.

    Raises:
        ValueError: No file is given, or `document` is something else.
    """
    if document not in DOCUMENTS:
        raise ValueError(f"document is {document!r}; expected {' or '.join(map(repr, DOCUMENTS))}")
    if not paths:
        raise ValueError("no text file was given; name at least one")
    names = tf.data.Dataset.from_tensor_slices([str(path) for path in paths])
    if document == "file":
        return names.map(tf.io.read_file)
    return tf.data.TextLineDataset(names).filter(lambda line: tf.strings.length(line) > 0)


def texts_of(documents: Iterable[str]) -> tf.data.Dataset:
    """The documents of any iterable.

    Args:
        documents: Texts; read once for each pass over the result, so give a list to pass over it again.

    Returns:
        string, one text after another.
    """
    return tf.data.Dataset.from_generator(
        lambda: (text.encode("utf-8", "replace") for text in documents),
        output_signature=tf.TensorSpec((), tf.string),
    )


def tokenized(
    texts: tf.data.Dataset, encode_document: Callable[[tf.Tensor], tf.RaggedTensor], vocabulary_size: int
) -> tokens.Split:
    """The tokens of texts, held in memory.

    Args:
        texts: string, one text after another; what is no UTF-8 in them becomes U+FFFD.
        encode_document: Turns texts ``[N]`` to ids ``[N, None]``, each row with END_OF_DOCUMENT last, such as
            `GraphTokenizer.encode_document`; becomes part of a `tf.data` graph.
        vocabulary_size: Number of ids, special tokens included.

    Returns:
        What `language.LaneStream` reads.

    Raises:
        ValueError: There is no text at all.
    """

    def encode(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        rows = encode_document(tf.strings.unicode_transcode(batch, "UTF-8", "UTF-8", errors="replace"))
        return rows.flat_values, rows.row_splits

    encoded = texts.batch(_TEXTS_AT_ONCE).map(encode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
    documents = (
        ids[start:end]
        for ids, splits in encoded.as_numpy_iterator()
        for start, end in zip(splits[:-1], splits[1:], strict=True)
    )
    split = tokens.split_in_memory("raw text", documents, vocabulary_size)
    if not split.num_documents:
        raise ValueError("there is no text; name files that are not empty")
    return split
