"""A trained language model and the tokenizer that it reads text with, which travels with it.

<workdir>/group_0/
    student.keras            the model
    tokenizer/               committed when training starts
        word_pieces.model    or another tokenizer, what the token shards were written with
        manifest.json        its fingerprint, the manifest of each corpus, checksums

keep_tokenizer(tokenizer_dir(group_dir), corpora)               by training
trained = open_trained(workdir, group=0)                       later, without any corpus
trained.reset()
trained.log_likelihoods(inputs, targets)                       continues from the state of the call before
trained.next_logits(ids)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from tf_codistill import files, runs, tokens
from tf_codistill.models import language_model, transformer  # noqa: F401 - a saved one is found by its name
from tf_codistill.models.causal import CausalModel
from tf_codistill.tokenizer.base import Tokenizer
from tf_codistill.tokenizer.opening import open_tokenizer


def tokenizer_dir(group_dir: str) -> str:
    """The tokenizer that travels with the model of a group."""
    return files.join(group_dir, "tokenizer")


def keep_tokenizer(directory: str, corpora: Mapping[str, tokens.Corpus], is_writer: bool = True) -> None:
    """Copies the tokenizer of the corpora that a model is trained on, or checks that it is there already.

    Args:
        directory: ``tokenizer/`` of a group.
        corpora: The corpora by name, with one vocabulary.
        is_writer: Whether to write; one worker of a group does, the others only check.

    Raises:
        ValueError: Another tokenizer is there, or a corpus's manifest does not fit its tokenizer.
    """
    corpus = next(iter(corpora.values()))
    if check_tokenizer(directory, corpus):
        _check_documents(directory, corpora)
        return
    if not is_writer:
        return
    files.make_directory(directory)
    name = str(corpus.manifest["tokenizer"])
    path = files.join(directory, name)
    files.write(path, files.read(corpus.tokenizer_path))
    if files.checksum(path) != corpus.fingerprint:
        raise files.CorruptError(
            f"tokenizer {corpus.tokenizer_path!r} has changed since the corpus was opened; prepare it again"
        )
    metadata = {
        "tokenizer": name,
        "vocabulary_size": corpus.vocabulary_size,
        "vocabulary_fingerprint": corpus.fingerprint,
        "corpora": {name: each.manifest for name, each in corpora.items()},
    }
    files.commit(directory, metadata)


def _check_documents(directory: str, corpora: Mapping[str, tokens.Corpus]) -> None:
    """Directories may have moved, but what is in them is what training began with."""
    kept = (files.read_manifest(directory) or {}).get("corpora", {})
    before, now = (
        sorted(json.dumps(manifest["files"], sort_keys=True) for manifest in manifests)
        for manifests in (kept.values(), (corpus.manifest for corpus in corpora.values()))
    )
    if kept and before != now:
        raise ValueError(
            f"the documents of {', '.join(map(repr, corpora))} are others than those that the run beside "
            f"{directory!r} began with; use the corpora that it began with, or another workdir"
        )


def check_tokenizer(directory: str, corpus: tokens.Corpus) -> bool:
    """Checks that a corpus has the vocabulary that a group is trained with.

    Args:
        directory: ``tokenizer/`` of the group.
        corpus: The corpus.

    Returns:
        Whether the group has a tokenizer already.

    Raises:
        ValueError: The group has another one.
    """
    manifest = files.read_manifest(directory)
    if manifest is None:
        return False
    if manifest.get("vocabulary_fingerprint") != corpus.fingerprint:
        raise ValueError(
            f"corpus {corpus.directory!r} has another vocabulary (fingerprint {corpus.fingerprint}) than the "
            f"model beside {directory!r} (fingerprint {manifest.get('vocabulary_fingerprint')}); use the "
            "corpus that the model was trained on, or another workdir"
        )
    return True


def load_model(path: str) -> CausalModel:
    """Loads a saved model of the language task.

    Args:
        path: A ``.keras`` file.

    Returns:
        The model as it is served.

    Raises:
        ValueError: There is no such file, or another model is in it.
    """
    try:
        served = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras has a type of its own for each way in which a file can be bad
        reason = str(error).split("\n")[0]
        raise ValueError(f"model {path!r} cannot be loaded: {reason}") from error
    if not isinstance(served, CausalModel):
        raise ValueError(
            f"model {path!r} is a {type(served).__name__}; expected one of the language task, a "
            "LanguageModel or a Transformer"
        )
    return served


class Trained:
    """A language model that reads one text, from its beginning on.

    Args:
        model: The model.
        tokenizer: The one that it was trained with.

    Attributes:
        tokenizer: As given.

    Raises:
        ValueError: Model and tokenizer have vocabularies of different sizes.
    """

    def __init__(self, model: CausalModel, tokenizer: Tokenizer) -> None:
        predicted = model.get_config()["vocabulary_size"]
        if predicted != tokenizer.vocabulary_size:
            raise ValueError(
                f"the model predicts {predicted} ids, but the tokenizer has {tokenizer.vocabulary_size}; use "
                "the tokenizer that the model was trained with"
            )
        self.tokenizer = tokenizer
        self._reader = model.reader()

    def check_crosses_documents(self) -> None:
        """Checks that a document bears on the next, so that one may be the context of another.

        Raises:
            ValueError: The model reads each document for itself.
        """
        if not self._reader.crosses_documents:
            raise ValueError(
                "the model reads each document for itself, so that no other document can be its context; "
                "leave --context_file out"
            )

    def reset(self, state: Sequence[npt.NDArray[Any]] | None = None) -> None:
        """Makes what is read next the beginning of a text.

        Args:
            state: What `state` returned after another text, which then goes on.
        """
        self._reader.reset(state)

    def state(self) -> list[npt.NDArray[Any]]:
        """What has been read, as far as it bears on what comes."""
        return self._reader.state()

    def log_likelihoods(
        self, inputs: npt.NDArray[np.int32], targets: npt.NDArray[np.int32]
    ) -> npt.NDArray[np.float64]:
        """Reads ids and tells how likely each next one was.

        Args:
            inputs: Ids to read, int32 [T].
            targets: The id that follows each of them, int32 [T].

        Returns:
            Natural logarithm of the probability of each target, float64 [T].
        """
        logits_TV = tf.cast(self._reader.read(inputs), tf.float64)
        return -tf.nn.sparse_softmax_cross_entropy_with_logits(targets, logits_TV).numpy()

    def next_logits(self, ids: npt.NDArray[np.int32]) -> npt.NDArray[np.float32]:
        """Reads ids and predicts the one that follows the last.

        Args:
            ids: Ids to read, int32 [T], at least one.

        Returns:
            Logits, [V].
        """
        return self._reader.read(ids)[-1].numpy()


def open_trained(
    workdir: str | None, group: int = 0, model: str | None = None, tokenizer: str | None = None
) -> Trained:
    """Loads a saved model with its tokenizer.

    Args:
        workdir: Directory of the run; not needed if `model` is given.
        group: The group of the run.
        model: A ``.keras`` file; that of the group if not given.
        tokenizer: The file of a tokenizer; that which travels with the model if not given.

    Returns:
        The model, ready to read a text.

    Raises:
        ValueError: The model cannot be loaded, there is no tokenizer, or they do not fit: `tokenizer` is
            another one than that which travels with the model.
    """
    if not (model or workdir):
        raise ValueError(
            "no model is named; give --workdir, the directory of a run, or --model, a .keras file"
        )
    model = model or runs.student_path(workdir or "", group)
    if not files.exists(model):
        raise ValueError(
            f"there is no model {model!r}; a group writes its own at the end of training: wait for that, or "
            "name another --workdir, --group or --model"
        )
    opened = open_tokenizer(tokenizer or _tokenizer_beside(model))
    if tokenizer:
        _check_given_tokenizer(tokenizer, opened.fingerprint, model)
    return Trained(load_model(model), opened)


def _check_given_tokenizer(tokenizer: str, fingerprint: str, model: str) -> None:
    """Equal sizes do not make equal vocabularies: the ids of another one mean other pieces."""
    manifest = files.read_manifest(tokenizer_dir(os.path.dirname(model))) or {}
    expected = manifest.get("vocabulary_fingerprint", fingerprint)
    if fingerprint != expected:
        raise ValueError(
            f"tokenizer {tokenizer!r} has fingerprint {fingerprint}, that of model {model!r} has {expected}; "
            "leave --tokenizer out: the right one travels with the model"
        )


def _tokenizer_beside(model: str) -> str:
    directory = tokenizer_dir(os.path.dirname(model))
    manifest = files.read_manifest(directory)
    if manifest is None:
        raise ValueError(
            f"no tokenizer travels with model {model!r}; name the file of its tokenizer by --tokenizer"
        )
    files.verify(directory, manifest)
    return files.join(directory, str(manifest["tokenizer"]))
