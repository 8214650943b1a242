"""How often each word piece occurs in a corpus: what a baseline smooths labels towards.

    frequencies = unigram_frequencies("corpus/tokens")     float64 [V], sums to 1
    losses.UnigramSmoothing(frequencies)

Anil et al. (2018) compare codistillation with label smoothing towards it in section 3.3.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tf_codistill import tokens

_CHUNK_TOKENS = 1 << 20


def unigram_frequencies(corpus_dir: str, split: str = "train") -> npt.NDArray[np.float64]:
    """Counts the word pieces of a split.

    Args:
        corpus_dir: Directory with token shards and their manifest.
        split: Name of the split.

    Returns:
        The frequency of each word piece, float64 [V]; a piece that does not occur counts as one occurrence,
        so that no frequency is 0.

    Raises:
        ValueError: There is no such corpus or split, or it is damaged.
    """
    corpus = tokens.open_corpus(corpus_dir)
    stored = corpus.split(split)
    counts = np.zeros(corpus.vocabulary_size, np.int64)
    for start in range(0, stored.num_tokens, _CHUNK_TOKENS):
        ids = stored.gather(np.arange(start, min(start + _CHUNK_TOKENS, stored.num_tokens)))
        counts += np.bincount(ids, minlength=corpus.vocabulary_size)
    counts = np.maximum(counts, 1)
    return counts / counts.sum()
