"""The alphabet of dimensions, used as suffixes where a shape is not obvious.

    logits_BTV          [batch per replica, tokens in a window, vocabulary]
    teacher_probs_PBTV  the same for each peer

A name without a suffix is a scalar, or its shape does not matter where it is used.
"""

from __future__ import annotations

LEGEND: dict[str, str] = {
    "P": "peers, one teacher each",
    "B": "batch per replica; in language modelling its lanes",
    "T": "tokens in a window",
    "V": "vocabulary",
    "C": "classes",
    "D": "width of a layer",
}
