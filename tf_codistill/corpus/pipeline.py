"""From WET files to a corpus that training reads.

    WET files -> read -> duplicates -> near duplicates, -> word pieces -> write -> list -> manifest.json
                  |          |         contamination                        |
                  +----------+---------------- counts ----------------------+
                                      read = kept + dropped + unreadable, always

    mark = prepare(files.glob("crawl/*.warc.wet.gz"), "corpus", CorpusSettings(), engines.Local())
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
import re
from collections.abc import Mapping, Sequence
from typing import Any

from absl import logging

from tf_codistill import files, tokens
from tf_codistill.corpus import finished
from tf_codistill.corpus.crawl.opening import file_name, is_http, modified_at
from tf_codistill.corpus.finished import SETTINGS, Finished
from tf_codistill.corpus.paragraph_ids import selection
from tf_codistill.corpus.report import counts
from tf_codistill.corpus.report.counts import Facts
from tf_codistill.corpus.settings import CorpusSettings
from tf_codistill.corpus.stages import contamination, first_holders, near_duplicates, writing
from tf_codistill.corpus.stages.duplicates import DuplicatesStage
from tf_codistill.corpus.stages.listing import FILES, ListStage
from tf_codistill.corpus.stages.reading import ReadStage
from tf_codistill.jobs import quarantine, stages, written
from tf_codistill.jobs.engines import Local
from tf_codistill.jobs.stages import fingerprint
from tf_codistill.jobs.written import Written
from tf_codistill.tokenizer.word_pieces import WordPieces

# What may lie in the directory of the work.
_WORK = re.compile(
    rf"(?:read|listed|duplicates|near|held-out|pieces|write|list)-[0-9a-f]{{16}}|{written.RECORD}|\.probe-[0-9a-f]{{32}}.*"
)
_WORK_VERSION = 8  # counts up when the results of a stage change although its settings do not


def prepare(
    sources: Sequence[str],
    output_dir: str,
    settings: CorpusSettings | None = None,
    engine: stages.Engine | None = None,
    *,
    tokenizer: str | None = None,
    quarantine_dir: str | None = None,
    paragraph_ids: selection.Selection | None = None,
    sample: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Prepares a corpus, unless `output_dir` holds it already.

    Args:
        sources: Paths or URLs of WET files, each with another base name, packed or not.
        output_dir: Directory of the corpus. What is not finished is kept beside it, in ``<output_dir>.work``.
        settings: Vocabulary, filters and sizes.
        engine: What runs the tasks; by default this process.
        tokenizer: Path of a ``word_pieces.model`` to use; by default word pieces are learned.
        quarantine_dir: Directory that gets what cannot be read of WET files; by default nothing is kept.
            A corpus that is there already gives it nothing, which is an error if it lacks something.
        paragraph_ids: A list that takes the place of the filters and of the search for duplicates.
        sample: Of which crawl the files were drawn, see `sampled`; it is noted with the corpus.

    Returns:
        The mark of the corpus, see `tokens.commit_corpus`.

    Raises:
        ValueError: Too many WET files cannot be read, a split would be empty, the list does not fit the WET
            files, or what `check` tells.
        FileNotFoundError: A WET file or the tokenizer does not exist.
        OSError: A WET file is out of reach; what was read of others is kept for the next call.
    """
    settings, engine = _settings(settings, paragraph_ids), engine or Local(num_processes=1)
    named = _by_name(sources)
    num_bytes = _sizes(named)
    description = _describe(settings, tokenizer, paragraph_ids)
    mark = _finished(output_dir, description, named, num_bytes, quarantine_dir)
    work_dir = written.work_dir(output_dir)
    if mark is None:
        output = Written.beside(output_dir)
        absent = _absent(output)
        # Each stage gets a folder named by all that its results depend on.
        key = fingerprint(_WORK_VERSION, settings.of_reading(), description["paragraph_ids"])
        read_dir = files.join(work_dir, f"read-{key}")
        try:
            _check_places(settings, tokenizer, quarantine_dir)
            output.open()
            listed_dir = None if paragraph_ids is None else _listed(paragraph_ids, work_dir, key, named)
            read = ReadStage(read_dir, settings, named, num_bytes, quarantine_dir, listed_dir)
            mark = _prepare(read, key, engine, output, tokenizer, description, sample)
        except (OSError, ValueError):
            # Perhaps another process has finished the same corpus and taken the work away.
            mark = _finished(output_dir, description, named, num_bytes)
            if mark is None:
                _remove_empty(absent)
                raise
    with contextlib.suppress(OSError):
        _remove_work(work_dir)
    return mark


def check(
    output_dir: str,
    settings: CorpusSettings | None = None,
    *,
    tokenizer: str | None = None,
    quarantine_dir: str | None = None,
    paragraph_ids: selection.Selection | None = None,
) -> Finished | None:
    """Checks what `prepare` would be given, before WET files are fetched for it.

    Args:
        output_dir: Directory of the corpus.
        settings: Vocabulary, filters and sizes.
        tokenizer: Path of a ``word_pieces.model``.
        quarantine_dir: Directory for what cannot be read.
        paragraph_ids: A list of paragraphs.

    Returns:
        The corpus that is there and was prepared so, perhaps from other WET files; None if there is none.

    Raises:
        ValueError: `output_dir` or `quarantine_dir` cannot be written to, `output_dir` holds something else,
            such as a corpus that was prepared otherwise, the tokenizer is none, or `quarantine_dir` lacks
            what was damaged when the corpus was prepared.
        FileNotFoundError: The tokenizer does not exist.
    """
    settings = _settings(settings, paragraph_ids)
    description = _describe(settings, tokenizer, paragraph_ids)
    found = Finished.find(output_dir, description)
    if found is not None:
        found.check_quarantine(quarantine_dir)
        return found
    output = Written.beside(output_dir)
    absent = _absent(output)
    try:
        _check_places(settings, tokenizer, quarantine_dir)
        output.check()
    finally:
        _remove_empty(absent)
    return None


def _prepare(
    read: ReadStage,
    key: str,
    engine: stages.Engine,
    output: Written,
    tokenizer: str | None,
    description: Mapping[str, Any],
    sample: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The stages, one after the other."""
    settings, work_dir = read.settings, written.work_dir(output.directory)
    _forget_changed(read)
    read_facts = read.run(engine)
    _check_read(read, read_facts)

    key = fingerprint(key, [[name, facts["bytes"], facts["sha256"]] for name, facts in read_facts.items()])
    num_paragraphs = sum(facts["paragraphs"] for facts in read_facts.values())
    repeated = DuplicatesStage(
        files.join(work_dir, f"duplicates-{key}"), settings, read.directory, tuple(read_facts), num_paragraphs
    )
    num_documents = {split: sum(facts[split] for facts in read_facts.values()) for split in settings.splits}
    repeated, repeated_facts = first_holders.find(repeated, sum(num_documents.values()), engine)

    kept = writing.Kept(settings, repeated)
    key = fingerprint(key, settings.near_duplicates)
    near_dir = files.join(work_dir, f"near-{key}")
    kept = near_duplicates.without(kept, near_dir, sum(num_documents.values()), engine)
    key = fingerprint(key, settings.decontaminate)
    kept = contamination.without(kept, files.join(work_dir, f"held-out-{key}"), num_documents, engine)
    key = fingerprint(key, settings.num_pieces, settings.max_learning_characters, _checksum(tokenizer))
    pieces = _pieces(kept, files.join(work_dir, f"pieces-{key}"), tokenizer)
    key = fingerprint(key, settings.max_tokens, settings.max_validation_tokens, list(read.sources))
    write_dir, wet_files = files.join(work_dir, f"write-{key}"), tuple(read.sources)
    write = writing.WriteStage(write_dir, settings, kept, pieces, output, num_documents, wet_files)
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
    return _commit(write, write_facts, counted, finished.record(description, sample, read, read_facts))


def _settings(settings: CorpusSettings | None, paragraph_ids: selection.Selection | None) -> CorpusSettings:
    settings = settings or CorpusSettings()
    return settings if paragraph_ids is None else paragraph_ids.applied_to(settings)


def _listed(paragraph_ids: selection.Selection, work_dir: str, key: str, sources: Mapping[str, str]) -> str:
    """The folder of what a list has of each WET file."""
    directory = files.join(work_dir, f"listed-{fingerprint(key, paragraph_ids.crawl, list(sources))}")
    paragraph_ids.unpack(directory, sources)
    return directory


def _remove_work(work_dir: str) -> None:
    """Removes the results of the stages, and their directory unless somebody keeps something else there."""
    names = files.names(work_dir)
    for name in filter(_WORK.fullmatch, names):
        files.remove(files.join(work_dir, name))
    if all(map(_WORK.fullmatch, names)):
        files.remove(work_dir)


def _absent(output: Written) -> list[str]:
    """Directories that are made for a corpus and are not there yet, each before the one that it is in."""
    made = output.directory, output.record_dir, written.work_dir(output.directory)
    return [directory for directory in made if not files.exists(directory)]


def _remove_empty(directories: Sequence[str]) -> None:
    """Removes those of some directories that hold nothing."""
    for directory in directories:
        if files.is_directory(directory) and not files.names(directory):
            files.remove(directory)


def _by_name(sources: Sequence[str]) -> dict[str, str]:
    """The sources by base name, sorted by it."""
    if not sources:
        raise ValueError("no WET file was given; name at least one")
    named: dict[str, str] = {}
    owners: dict[str, str] = {}
    for source in sources:
        name = file_name(source)
        owner = owners.setdefault(selection.stem_of(name), source)
        if owner != source:
            raise ValueError(
                f"WET files {owner!r} and {source!r} have the same name, packed or not, by which a corpus "
                "tells them apart; give each once, or rename one"
            )
        named[name] = source
    return dict(sorted(named.items()))


def _sizes(sources: Mapping[str, str]) -> dict[str, int]:
    """Size of each WET file in bytes, 0 for those on a server, which is not asked for it."""
    return {name: 0 if is_http(source) else files.size_bytes(source) for name, source in sources.items()}


def _forget_changed(read: ReadStage) -> None:
    """Forgets the results of WET files that have changed, or of whose damage nothing is in quarantine yet."""
    for task in read.done() & read.num_bytes.keys():
        facts, source, time = read.facts(task), read.sources[task], modified_at(read.sources[task])
        is_damaged = bool(facts["counts"]["unreadable"])
        is_changed = not is_http(source) and read.num_bytes[task] != facts["bytes"]
        # Whoever fetched a damaged file anew may have given it its old time.
        if not is_changed and time is not None and (is_damaged or time != facts["modified_at"]):
            is_changed = files.checksum(source) != facts["sha256"]
        if is_damaged and read.quarantine_dir is not None:
            is_changed |= not quarantine.has(read.quarantine_dir, task)
        if is_changed:
            files.remove(read.path(task, ".json"))
        elif time not in (None, facts["modified_at"]):
            files.write_json(read.path(task, ".json"), {**facts, "modified_at": time})


def _check_read(read: ReadStage, facts: Facts) -> None:
    """Says what cannot be read; raises an error if that is too much, or if nothing is left of the rest."""
    failures = list(read.failures(facts).values())
    if len(failures) > read.settings.max_unreadable_share * len(read.sources):
        number = f"{len(failures)} of {len(read.sources)} WET files cannot be read, or not to their end; "
        raise ValueError((number if len(failures) > 1 else "") + failures[0])
    for sentence in failures:
        logging.warning("%s", sentence)
    sums = counts.of_reading(facts)
    for split in read.settings.splits:
        if not sum(task[split] for task in facts.values()):
            raise ValueError(
                f"the {split} split would be empty: of {sums['read']} documents read, dropped were "
                f"{dict(sums['dropped']) or 'none'}{counts.cause(sums, read.settings)}; use more WET files, "
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
                f"{getattr(write.settings, limit)} for {len(tasks)} token shards; allow more tokens "
                "or use more WET files"
            )


def _pieces(kept: writing.Kept, directory: str, tokenizer: str | None) -> str:
    """Path of the tokenizer: learned, or a copy of the given one."""
    files.make_directory(directory)
    path = files.join(directory, tokens.TOKENIZER)
    if tokenizer is None:
        writing.learn(kept, path)
    elif not files.exists(path):
        files.write(path, files.read(tokenizer))
    return path


def _checksum(tokenizer: str | None) -> str | None:
    return None if tokenizer is None else files.checksum(tokenizer)


def _commit(
    write: writing.WriteStage, facts: Facts, counted: Mapping[str, Any], preparation: Mapping[str, Any]
) -> dict[str, Any]:
    """Puts what belongs to the corpus beside its token shards, takes away what does not, and marks it."""
    output = write.output
    files.write(output.claim(tokens.TOKENIZER), files.read(write.tokenizer))
    files.write_json(output.claim(SETTINGS), preparation)
    manifest = output.claim(files.MANIFEST)
    promised = {name: checksum for task in facts.values() for name, checksum in task["sha256"].items()}
    names = (*promised, tokens.TOKENIZER, SETTINGS, *FILES)
    output.remove_others([*names, files.MANIFEST])
    mark = tokens.commit_corpus(
        output.directory,
        vocabulary_size=writing.open_tokenizer(write.tokenizer).vocabulary_size,
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


def _describe(
    settings: CorpusSettings, tokenizer: str | None, paragraph_ids: selection.Selection | None
) -> dict[str, Any]:
    description = settings.describe()
    if tokenizer is not None:
        description["num_pieces"] = None  # the tokenizer says it
    listed = None if paragraph_ids is None else paragraph_ids.sha256
    return {**description, "tokenizer": _checksum(tokenizer), "paragraph_ids": listed}


def _finished(
    output_dir: str,
    description: Mapping[str, Any],
    sources: Mapping[str, str],
    num_bytes: Mapping[str, int],
    quarantine_dir: str | None = None,
) -> dict[str, Any] | None:
    """The mark of a corpus that was prepared as described from these WET files, None if there is none."""
    found = Finished.find(output_dir, description)
    if found is None:
        return None
    found.check_files(sources, num_bytes)
    found.check_quarantine(quarantine_dir)
    return found.mark


def _check_places(settings: CorpusSettings, tokenizer: str | None, quarantine_dir: str | None) -> None:
    """Checks library and tokenizer, and makes the directory for what cannot be read."""
    near_duplicates.check(settings)
    if tokenizer is not None:
        WordPieces(tokenizer)
    if quarantine_dir is not None:
        files.make_directory(quarantine_dir)
