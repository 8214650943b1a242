r"""The pages in the bytes of a WET file, each of which has to prove itself.

    WARC/1.0                                      a record: its first line,
    WARC-Type: conversion                         its fields,
    WARC-Target-URI: https://example.org/
    WARC-Block-Digest: sha1:NAZRBRLQ4FI7XGC6...
    Content-Length: 4176
                                                  an empty line,
    It was the best of times, ...                 as many bytes as told, which have the checksum,
                                                  and two empty lines, before the next

A page is whole if its checksum is right, wherever it ends. One without a checksum is believed if its length
leads to the next record and its beginning is certain: that of the file or of a gzip member, or the end of
another record. What was found by searching may be a quotation in a text.
"""

from __future__ import annotations

import bisect
import dataclasses
import hashlib
import itertools
import operator
import re
from collections.abc import Iterable, Iterator

from tf_codistill.corpus.document import Record
from tf_codistill.corpus.wet.gzip_members import Content
from tf_codistill.jobs.quarantine import MAX_STRETCH_BYTES, Damage, OpenDamage

_MAX_BODY_BYTES = 1 << 24  # a page that says to be longer is not waited for; Common Crawl cuts pages at 1 MiB
_MAX_HEAD_BYTES = 1 << 16
_SEARCH_BYTES = 1 << 20  # how far a page with a wrong length is followed
_MAX_ENDS = 8  # how many of the places where it may end are tried
_SIGHT_BYTES = 64  # enough to see that another record begins
_HEAD = re.compile(rb"WARC/1\.\d[ \t]*\r?\n((?:[^\r\n]+\r?\n)*)\r?\n")
_LIKELY_HEAD = re.compile(rb"WARC/1\.\d[ \t]*\r?\n[A-Za-z-]+:")
_BEGINNING = b"WARC/1."
_NEXT = re.compile(rb"([\r\n]*)(?:WARC/1\.|\Z)")
_LINE_ENDS = re.compile(rb"[\r\n]+")
_FIELD = re.compile(
    rb"^(WARC-(?:Type|Target-URI|Block-Digest|Record-ID|Identified-Content-Language)|Content-(?:Type|Length))"
    rb"[ \t]*:[ \t]*([^\r\n]*)",
    re.IGNORECASE | re.MULTILINE,
)
_CONTROLS = bytes({*range(0x20), 0x7F} - set(b"\t\n\r"))
_BASE32 = bytes.maketrans(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", b"0123456789ABCDEFGHIJKLMNOPQRSTUV")
_URL = b"warc-target-uri"
_TEXT = b"text/plain"
_OTHER_TYPES = frozenset(b"warcinfo response resource request metadata revisit continuation".split())
_begin = operator.itemgetter(0)  # of what stands in the buffer


class Splitter:
    """Cuts what a file holds into pages and damage."""

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: list[bytes] = []  # what comes behind the buffer
        self._size = 0  # of both together
        self._need = 0  # size from which it makes sense to look again
        self._parts: list[tuple[int, Content]] = []  # where in the buffer each begins
        self._lost: OpenDamage | None = None
        self._is_sure = True  # whether the next record begins where the one before it ended
        self._is_closed = True  # whether a record may end where the buffer does
        self._is_final = False  # whether nothing more comes

    def split(self, parts: Iterable[Content | Damage]) -> Iterator[Record | Damage]:
        """Yields pages and damage in the order of the file."""
        for part in parts:
            if isinstance(part, Content):
                self._parts.append((self._size, part))
                self._waiting.append(part.content)
                self._size += len(part.content)
                self._is_closed = part.is_closed
                if self._size >= self._need:
                    yield from self._cut()
            else:
                # Behind a cut, the last record is part of the damage even if it seems to end.
                if self._is_closed:
                    yield from self._finish()
                yield dataclasses.replace(part, url=self._forget())
        yield from self._finish()

    def _finish(self) -> Iterator[Record | Damage]:
        self._is_final = self._is_closed = True
        yield from self._cut()
        if self._lost:
            yield self._lost.close()
            self._lost = None
        self._is_final = False

    def _forget(self) -> str:
        """Forgets the record that is not over, after which nothing is sure; returns its address."""
        head = _HEAD.search(b"".join([self._buffer, *self._waiting]))
        self._drop(self._size)
        self._lost, self._is_sure, self._need = None, False, 0
        return _Head(head).url if head else ""

    def _cut(self) -> Iterator[Record | Damage]:
        """Yields what can be told apart by now, and drops it from the buffer."""
        self._buffer = b"".join([self._buffer, *self._waiting])
        self._waiting.clear()
        self._need = position = 0
        while position < self._size:
            item, end = (self._skip if self._lost else self._record)(position)
            if item is not None:
                yield item
            if end == position and item is None:
                break
            position = end
        self._need = max(0, self._need - position)
        self._drop(position)

    def _drop(self, position: int) -> None:
        if position == self._size:
            self._buffer, self._size = b"", 0
            self._waiting.clear()
            self._parts.clear()
            return
        self._buffer = self._buffer[position:]
        self._size -= position
        index = bisect.bisect_right(self._parts, position, key=_begin) - 1
        self._parts = [(begin - position, part) for begin, part in self._parts[index:]]

    def _record(self, position: int) -> tuple[Record | Damage | None, int]:
        """What is at a position, if it can be told, and the position behind it; the same one if it cannot."""
        buffer = self._buffer
        match = _HEAD.match(buffer, position, position + _MAX_HEAD_BYTES)
        if match is None:
            line_ends = _LINE_ENDS.match(buffer, position)
            return (None, line_ends.end()) if line_ends else self._no_head(position)
        head, start = _Head(match), match.end()
        end = start + head.length if head.length is not None else -1
        is_in_sight = end + _SIGHT_BYTES <= self._size or (self._is_closed and end <= self._size)
        if not is_in_sight and not self._is_final:
            self._need = end + _SIGHT_BYTES
            return None, position
        following = _NEXT.match(buffer, end) if start <= end <= self._size else None
        body = buffer[start:end]
        if following is None or (head.is_page and not head.fits(body)):
            return self._misfit(head, position, start, end if following else None)
        is_proven = self._is_sure or head.digest is not None or self._begins_member(position)
        self._is_sure = True
        if head.is_page and is_proven:
            return head.record(body), following.end(1)
        if head.is_page or not head.is_known:
            kind = "unproven_record" if head.is_page else "bad_header"
            return self._damage(kind, position, end, head.url), end
        return None, following.end(1)

    def _no_head(self, position: int) -> tuple[None, int]:
        begin = self._buffer[position : position + len(_BEGINNING)]
        may_begin = _BEGINNING.startswith(begin)
        if may_begin and not self._is_final and self._size - position < _MAX_HEAD_BYTES:
            self._need = self._size + 1
            return None, position
        is_last = self._is_final and not _LIKELY_HEAD.search(self._buffer, position + 1)
        self._lose("cut_off" if may_begin and is_last else "stray_bytes", position, position + 1)
        return None, position + 1

    def _misfit(
        self, head: _Head, position: int, start: int, told_end: int | None
    ) -> tuple[Record | Damage | None, int]:
        """Like `_record` for one whose length or checksum is wrong: it may end before any of the next."""
        heads = [
            match.start() for match in itertools.islice(_LIKELY_HEAD.finditer(self._buffer, start), _MAX_ENDS)
        ]
        for end in [*heads, self._size] if self._is_closed else heads:
            if (body := head.fitting(self._buffer[start:end])) is not None:
                self._is_sure = True
                return head.record(body, "wrong_length"), end
        is_seen = self._is_final or (self._is_closed and told_end is not None)
        if not is_seen and self._size < start + _SEARCH_BYTES:
            self._need = start + _SEARCH_BYTES
            return None, position
        self._is_sure = False
        if told_end is not None:
            return self._damage("wrong_digest", position, told_end, head.url), told_end
        if not heads and not self._is_final:
            self._lose("giant_record" if head.is_giant else "wrong_length", position, start, head.url)
            return None, start
        end = heads[0] if heads else self._size
        kind = "wrong_length" if heads or start + (head.length or 0) <= end else "cut_off"
        is_lost = head.is_page or not head.is_known
        return self._damage(kind, position, end, head.url) if is_lost else None, end

    def _skip(self, position: int) -> tuple[Damage | None, int]:
        """Goes on to what looks like a record."""
        found = _LIKELY_HEAD.search(self._buffer, position)
        end = self._size if self._is_final else max(position, self._size - _SIGHT_BYTES)
        end = found.start() if found else end
        lost = self._lose("", position, end)
        if found is None:
            return None, end
        self._lost, self._is_sure = None, False
        return lost.close(), end

    def _lose(self, kind: str, position: int, end: int, url: str = "") -> OpenDamage:
        if self._lost is None:
            self._lost = OpenDamage(kind, self._offset(position), url)
        self._lost.add(self._buffer[position:end])
        return self._lost

    def _damage(self, kind: str, position: int, end: int, url: str) -> Damage:
        content = self._buffer[position : min(end, position + MAX_STRETCH_BYTES)]
        return Damage(kind, self._offset(position), end - position, content, url)

    def _offset(self, position: int) -> int:
        """Where in the file a position of the buffer is, or the gzip member that it is in."""
        begin, part = self._parts[bisect.bisect_right(self._parts, position, key=_begin) - 1]
        return part.offset if part.is_packed else part.offset + position - begin

    def _begins_member(self, position: int) -> bool:
        return any(begin == position and part.is_start for begin, part in self._parts)


class _Head:
    """What the fields of a record tell."""

    def __init__(self, match: re.Match[bytes]) -> None:
        pairs = _FIELD.findall(match.group(1))
        fields = {name.lower(): value for name, value in pairs}
        self._fields = fields
        kind = fields.get(b"warc-type", b"").strip().lower()
        is_text = fields.get(b"content-type", _TEXT).lower().startswith(_TEXT)
        is_once = len(fields) == len(pairs)
        self.is_page = kind == b"conversion" and is_text and is_once and _URL in fields
        self.is_known = self.is_page or (kind in _OTHER_TYPES and is_once)
        length = fields.get(b"content-length", b"").strip()
        number = int(length) if length.isdigit() and len(length) < 20 else None
        self.is_giant = length.isdigit() and (number is None or number > _MAX_BODY_BYTES)
        self.length = None if self.is_giant else number
        """Number of bytes of the text; None where it is missing, nonsense or giant."""
        self.digest = _digest_number(fields.get(b"warc-block-digest", b""))
        """SHA-1 of the text as a number; None where the record has none."""

    @property
    def url(self) -> str:
        return self._text(_URL) or ""

    def fits(self, body: bytes) -> bool:
        """Whether a text has the checksum, if there is one."""
        return self.digest is None or self.digest == int.from_bytes(hashlib.sha1(body).digest(), "big")

    def fitting(self, body: bytes) -> bytes | None:
        """The text without such line ends behind it that are not of it by the checksum; None if none fits."""
        if self.digest is None or not self.is_page:
            return None
        num_bytes = len(body.rstrip(b"\r\n"))
        digest = hashlib.sha1(body[:num_bytes])
        for end in range(num_bytes, min(num_bytes + _MAX_ENDS, len(body)) + 1):
            if int.from_bytes(digest.digest(), "big") == self.digest:
                return body[:end]
            digest.update(body[end : end + 1])
        return None

    def record(self, body: bytes, *dirt: str) -> Record:
        try:
            text = body.decode("utf-8")
        except UnicodeDecodeError:
            text = body.decode("utf-8", "replace")
            dirt += ("bad_utf8",)
        if len(body.translate(None, _CONTROLS)) != len(body):
            dirt += ("control_characters",)
        if not body or body.isspace():
            dirt += ("empty",)
        if _BEGINNING in body and (b"\n" + _BEGINNING in body or body.startswith(_BEGINNING)):
            dirt += ("header_in_text",)
        language = self._text(b"warc-identified-content-language")
        return Record(self.url, text, language, self._text(b"warc-record-id") or "", dirt)

    def _text(self, name: bytes) -> str | None:
        value = self._fields.get(name)
        return None if value is None else value.strip().decode("utf-8", "replace")


def _digest_number(value: bytes) -> int | None:
    """A SHA-1 as a number; None where there is none, and -1, which fits nothing, where it cannot be read."""
    algorithm, _, digits = value.strip().partition(b":")
    if algorithm.lower() != b"sha1":
        return None
    try:
        return int(digits.upper().translate(_BASE32), 32) if len(digits) == 32 else -1
    except ValueError:
        return -1
