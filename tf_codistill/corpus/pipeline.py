"""From documents to a corpus that training reads.

    source -> read -> duplicates -> near duplicates, -> word pieces -> write -> list -> manifest.json
               |          |         contamination                        |
               +----------+---------------- counts ----------------------+
                                   read = kept + dropped + unreadable, always

    mark = prepare(WetFiles(["crawl/*.warc.wet.gz"]), "corpus", CorpusSettings(), engines.Local())
    mark["counts"]     {"read": 5609, "kept": 5207, "dropped": {"link_list": 158, ...}, "unreadable": {}, ...}

Each stage is a list of tasks (`jobs.stages`), which an engine runs. Their results are in ``<corpus>.work``
until the corpus is finished: whoever starts again after being stopped goes on from there.

Documents are stored in the order of a hash of their address, which also says whether a document is held out
for validation. So the result depends neither on the order of the files nor on who did the work nor on chance:
the same files and settings give the same bytes. The manifest is written last; without it nobody takes this
for a corpus.
"""

from __future__ import annotations

import collections
import contextlib
import os
import re
from collections.abc import Mapping
from typing import Any

from absl import logging

from tf_codistill import files, tokens
from tf_codistill.corpus import finished
from tf_codistill.corpus.finished import SETTINGS, Finished
from tf_codistill.corpus.paragraph_ids import selection
from tf_codistill.corpus.report import counts
from tf_codistill.corpus.report.counts import Facts
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.sources.base import Source
from tf_codistill.corpus.stages import contamination, dropped, first_holders, near_duplicates, writing
from tf_codistill.corpus.stages.duplicates import DuplicatesStage
from tf_codistill.corpus.stages.listing import FILES, ListStage
from tf_codistill.corpus.stages.reading import ReadStage
from tf_codistill.jobs import quarantine, stages, written
from tf_codistill.jobs.engines import Local
from tf_codistill.jobs.stages import fingerprint
from tf_codistill.jobs.written import Written
from tf_codistill.tokenizer import opening
from tf_codistill.tokenizer.base import Tokenizer

# What may lie in the directory of the work.
_WORK = re.compile(
    rf"(?:read|listed|duplicates|near|held-out|pieces|write|list)-[0-9a-f]{{16}}|{written.RECORD}|\.probe-[0-9a-f]{{32}}.*"
)
_WORK_VERSION = 10  # counts up when the results of a stage change although its settings do not


def prepare(
    source: Source,
    output_dir: str,
    settings: CorpusSettings | None = None,
    engine: stages.Engine | None = None,
    *,
    tokenizer: str | None = None,
    quarantine_dir: str | None = None,
    dropped_dir: str | None = None,
    paragraph_ids: selection.Selection | None = None,
) -> dict[str, Any]:
    """Prepares a corpus, unless `output_dir` holds it already.

    Args:
        source: Where the documents come from; nothing is fetched for a corpus that is there.
        output_dir: Directory of the corpus. What is not finished is kept beside it, in ``<output_dir>.work``.
        settings: Vocabulary, filters and sizes.
        engine: What runs the tasks; by default this process.
        tokenizer: Path of a tokenizer's file, see `opening`; by default that of the settings.
        quarantine_dir: Gets what cannot be read; an error if a corpus is there already and it lacks any.
        dropped_dir: The same for documents that are dropped, see `dropped`.
        paragraph_ids: A list that takes the place of the filters and of the search for duplicates.

    Returns:
        The mark of the corpus, see `tokens.commit_corpus`.

    Raises:
        ValueError: Too much cannot be read, a split would be empty, the list does not fit, or as for `check`.
        OSError: A part is out of reach, and what was read of others is kept; or there is no such tokenizer.
    """
    settings, given, description = _asked_for(source, settings, tokenizer, paragraph_ids)
    engine, identity = engine or Local(num_processes=1), source.identity()
    found = _check(output_dir, settings, description, quarantine_dir, dropped_dir)  # before hours of fetching
    if found is not None and found.is_of(identity):
        return found.mark
    source = source.resolved(fetch=found is None)
    num_bytes, work_dir = source.parts(), written.work_dir(output_dir)
    if found is not None:
        mark = found.mark_of(source, num_bytes)
    else:
        output = Written.beside(output_dir)
        own = description["paragraph_ids"], description["source"]
        key = fingerprint(_WORK_VERSION, settings.of_reading(), *own)  # of all that stage 1 depends on
        try:
            with output.opened():
                listed_dir = _listed(paragraph_ids, work_dir, key, num_bytes)
                read_dir = files.join(work_dir, f"read-{key}")
                read = ReadStage(
                    read_dir, settings, source, num_bytes, quarantine_dir, listed_dir, dropped_dir
                )
                mark = _prepare(read, key, engine, output, given, description, identity or source.identity())
        except (OSError, ValueError):
            # Perhaps another process has finished the same corpus and taken the work away.
            found = Finished.find(output_dir, description)
            if found is None:
                raise
            mark = found.mark_of(source, num_bytes)
    _remove_work(work_dir)
    return mark


def check(
    source: Source,
    output_dir: str,
    settings: CorpusSettings | None = None,
    *,
    tokenizer: str | None = None,
    quarantine_dir: str | None = None,
    dropped_dir: str | None = None,
    paragraph_ids: selection.Selection | None = None,
) -> Finished | None:
    """Checks what `prepare` would be given, before anything is fetched for it.

    Of the source the parts are not looked at. Returns the corpus that is there and was prepared so, perhaps
    from other parts; None if there is none. A ValueError says that a directory cannot be written to, that
    `output_dir` holds something else, such as a corpus that was prepared otherwise, that the tokenizer is
    none, that a library is missing, or that `quarantine_dir` or `dropped_dir` lacks what it would have got
    when the corpus was prepared; a FileNotFoundError that there is no tokenizer.
    """
    settings, _, description = _asked_for(source, settings, tokenizer, paragraph_ids)
    return _check(output_dir, settings, description, quarantine_dir, dropped_dir)


def _check(
    output_dir: str,
    settings: CorpusSettings,
    description: Mapping[str, Any],
    quarantine_dir: str | None,
    dropped_dir: str | None,
) -> Finished | None:
    found = Finished.find(output_dir, description)
    if found is not None:
        found.check_kept(quarantine_dir, dropped_dir)
        return found
    output = Written.beside(output_dir)
    absent = output.absent()
    try:
        near_duplicates.check(settings)
        for directory in filter(None, (quarantine_dir, dropped_dir)):
            files.make_directory(directory)
        output.check()
    finally:
        written.remove_empty(absent)
    return None


def _prepare(
    read: ReadStage,
    key: str,
    engine: stages.Engine,
    output: Written,
    tokenizer: opening.TokenizerFile | None,
    description: Mapping[str, Any],
    identity: Mapping[str, Any] | None,
) -> dict[str, Any]:
    settings, work_dir = read.settings, written.work_dir(output.directory)
    _forget_changed(read)
    read_facts = read.run(engine)
    _check_read(read, read_facts)

    key = fingerprint(key, [[name, facts["bytes"], facts["sha256"]] for name, facts in read_facts.items()])
    num_paragraphs = sum(facts["paragraphs"] for facts in read_facts.values())
    repeated = DuplicatesStage(
        files.join(work_dir, f"duplicates-{key}"),
        settings,
        read.directory,
        tuple(read_facts),
        [facts["runs"] for facts in read_facts.values()],
        num_paragraphs,
    )
    num_documents = {split: sum(facts[split] for facts in read_facts.values()) for split in settings.splits}
    repeated, repeated_facts = first_holders.find(repeated, sum(num_documents.values()), engine)

    kept = writing.Kept(settings, repeated)
    key = fingerprint(key, settings.near_duplicates)
    near_dir = files.join(work_dir, f"near-{key}")
    kept = near_duplicates.without(kept, near_dir, sum(num_documents.values()), engine)
    key = fingerprint(key, settings.decontaminate)
    kept = contamination.without(kept, files.join(work_dir, f"held-out-{key}"), num_documents, engine)
    key = fingerprint(
        key, settings.num_pieces, settings.max_learning_characters, tokenizer and tokenizer.checksum
    )
    pieces = _pieces(kept, files.join(work_dir, f"pieces-{key}"), tokenizer)
    key = fingerprint(key, settings.max_tokens, settings.max_validation_tokens, list(read.num_bytes))
    write_dir, wet_files = files.join(work_dir, f"write-{key}"), tuple(read.num_bytes)
    write = writing.WriteStage(write_dir, kept, pieces, output, num_documents, wet_files, read.dropped_dir)
    write_facts = stages.run(write, engine)
    _check_written(write, write_facts)

    num_paragraphs = sum(facts["paragraphs"] for facts in write_facts.values())
    listed = [write.listed(task) for task in write_facts]
    listing = ListStage(files.join(work_dir, f"list-{key}"), wet_files, listed, num_paragraphs)
    stages.run(listing, engine)
    for name in FILES:
        output.claim(name)
    listing.write(output.directory, is_unwrapped=counts.of_reading(read_facts)["unwrapped"] > 0)

    counted = counts.of_corpus(read, read_facts, repeated_facts, write_facts)
    return _commit(write, write_facts, counted, finished.record(description, identity, read, read_facts))


def _asked_for(
    source: Source,
    settings: CorpusSettings | None,
    tokenizer: str | Tokenizer | None,
    paragraph_ids: selection.Selection | None,
) -> tuple[CorpusSettings, opening.TokenizerFile | None, dict[str, Any]]:
    """The settings that count, the tokenizer unless one is to be learned, and the corpus's description."""
    settings = settings or CorpusSettings()
    if paragraph_ids is not None:
        settings = paragraph_ids.applied_to(settings)
    description = settings.describe()
    tokenizer, given = tokenizer or settings.tokenizer, None
    if tokenizer is not None:
        given = opening.as_file(tokenizer)
        description["num_pieces"] = None  # the tokenizer says it
    description["tokenizer"] = given and given.checksum
    description["paragraph_ids"] = paragraph_ids and paragraph_ids.sha256
    description["source"] = source.describe()
    return settings, given, description


def _listed(
    paragraph_ids: selection.Selection | None, work_dir: str, key: str, parts: Mapping[str, int]
) -> str | None:
    """The folder of what a list, if any, has of each part."""
    if paragraph_ids is None:
        return None
    directory = files.join(work_dir, f"listed-{fingerprint(key, paragraph_ids.crawl, list(parts))}")
    paragraph_ids.unpack(directory, parts)
    return directory


def _remove_work(work_dir: str) -> None:
    """Removes the results of the stages, and their directory unless somebody keeps something else there."""
    with contextlib.suppress(OSError):
        names = files.names(work_dir)
        for name in filter(_WORK.fullmatch, names):
            files.remove(files.join(work_dir, name))
        if all(map(_WORK.fullmatch, names)):
            files.remove(work_dir)


def _forget_changed(read: ReadStage) -> None:
    """Forgets the results of parts that have changed, or of which not all that is asked for was kept."""
    for task in read.done() & read.num_bytes.keys():
        facts = read.facts(task)
        unreadable = facts["counts"]["unreadable"]
        now = read.source.renewed(task, {**facts, "unreadable": unreadable})
        is_kept = not unreadable or read.quarantine_dir is None or quarantine.has(read.quarantine_dir, task)
        is_kept &= dropped.has_all(read.dropped_dir, task, facts["counts"]["dropped"])
        if now is None or not is_kept:
            files.remove(read.path(task, ".json"))
        elif now["modified_at"] != facts["modified_at"]:
            files.write_json(read.path(task, ".json"), {**facts, "modified_at": now["modified_at"]})


def _check_read(read: ReadStage, facts: Facts) -> None:
    """Says what cannot be read; raises an error if that is too much, or if nothing is left of the rest."""
    failures = list(read.failures(facts).values())
    noun = read.source.noun
    if len(failures) > read.settings.max_unreadable_share * len(read.num_bytes):
        number = f"{len(failures)} of {len(read.num_bytes)} {noun}s cannot be read, or not to their end; "
        raise ValueError((number if len(failures) > 1 else "") + failures[0])
    for sentence in failures:
        logging.warning("%s", sentence)
    sums = counts.of_reading(facts)
    for split in read.settings.splits:
        if not sum(task[split] for task in facts.values()):
            raise ValueError(
                f"the {split} split would be empty: of {sums['read']} documents read, dropped were "
                f"{dict(sums['dropped']) or 'none'}{counts.cause(sums, read.settings)}; use more {noun}s, "
                f"other filters or another {'test' if split == 'test' else 'validation'}_share"
            )


def _check_written(write: writing.WriteStage, facts: Facts) -> None:
    for split, tasks in write.splits().items():
        if not any(facts[task]["shard"]["num_documents"] for task in tasks):
            dropped = collections.Counter[str]()
            for task in tasks:
                dropped.update(facts[task]["dropped"])
            limit = "max_tokens" if split == "train" else "max_validation_tokens"
            raise ValueError(
                f"the {split} split would be empty: dropped were {dict(dropped)} with {limit} = "
                f"{getattr(write.kept.settings, limit)} for {len(tasks)} token shards; allow more tokens "
                "or use more documents"
            )


def _pieces(kept: writing.Kept, directory: str, tokenizer: opening.TokenizerFile | None) -> str:
    """Path of the tokenizer: learned, or a copy of the given one."""
    files.make_directory(directory)
    if tokenizer is None:
        path = files.join(directory, tokens.TOKENIZER)
        writing.learn(kept, path)
    else:
        path = files.join(directory, tokenizer.name)
        files.write(path, tokenizer.content)
    return path


def _commit(
    write: writing.WriteStage, facts: Facts, counted: Mapping[str, Any], preparation: Mapping[str, Any]
) -> dict[str, Any]:
    """Puts what belongs to the corpus beside its token shards, takes away what does not, and marks it."""
    output = write.output
    tokenizer = os.path.basename(write.tokenizer)
    files.write(output.claim(tokenizer), files.read(write.tokenizer))
    files.write_json(output.claim(SETTINGS), preparation)
    manifest = output.claim(files.MANIFEST)
    promised = {name: checksum for task in facts.values() for name, checksum in task["sha256"].items()}
    names = (*promised, tokenizer, SETTINGS, *FILES)
    output.remove_others([*names, files.MANIFEST])
    mark = tokens.commit_corpus(
        output.directory,
        vocabulary_size=writing.open_tokenizer(write.tokenizer).vocabulary_size,
        tokenizer=tokenizer,
        splits={split: [facts[task]["shard"] for task in tasks] for split, tasks in write.splits().items()},
        counts=counted,
        names=names,
    )
    for name, checksum in promised.items():
        if mark["files"][name]["sha256"] != checksum:
            files.remove(manifest)
            files.remove(write.directory)
            raise files.CorruptError(
                f"{name!r} in {output.directory!r} is not what was written; run this again"
            )
    return mark
