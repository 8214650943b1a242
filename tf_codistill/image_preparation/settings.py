"""How images are prepared: what a gin file says.

ImageSettings.images_per_shard = 1024
ImageSettings.validation_share = 0.1
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import gin

from tf_codistill import settings


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How images are prepared.

    Attributes:
        images_per_shard: Images in a record file, but for the last of a part.
        validation_share: Share of the images held out for validation, by a hash of class and name, where the
            source has no part for it.
        test_share: The same for a test.
        max_damaged_share: The preparation stops if a larger share cannot be used: images that cannot be
            decoded, classes without images, images of classes that training lacks.
        jpeg_quality: With which images are stored that are no RGB JPEG, 1 to 100.
        expected_counts: How many ``classes`` there are to be, and images by part; nothing is checked by
        default.

    Raises:
        ValueError: A number is outside its range.
    """

    images_per_shard: int = 1024
    validation_share: float = 0.1
    test_share: float = 0.0
    max_damaged_share: float = 0.01
    jpeg_quality: int = 95
    expected_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Checks the values."""
        settings.check_types(self)
        if self.images_per_shard < 1:
            raise ValueError(f"images_per_shard is {self.images_per_shard}; expected at least 1")
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality is {self.jpeg_quality}; expected 1 to 100")
        for name in ("validation_share", "test_share", "max_damaged_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to less than 1")
        if self.validation_share + self.test_share >= 1:
            raise ValueError(
                f"validation_share + test_share is {self.validation_share + self.test_share}; expected less "
                "than 1, so that something is left to train on"
            )

    def describe(self) -> dict[str, Any]:
        """What the records depend on, as JSON takes it.

        Returns:
            Values by name.
        """
        values = dataclasses.asdict(self)
        del values["max_damaged_share"], values["expected_counts"]
        return values

    def part(self, key: bytes) -> str:
        """The part of an image, where its source does not say it.

        Args:
            key: A hash of its class and name.

        Returns:
            ``train``, ``validation`` or ``test``.
        """
        place = int.from_bytes(key[:8], "big")
        if place < math.floor(self.validation_share * (1 << 64)):
            return "validation"
        return (
            "test" if place < math.floor((self.validation_share + self.test_share) * (1 << 64)) else "train"
        )
