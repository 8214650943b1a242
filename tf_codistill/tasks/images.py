"""Image classification: which of some classes an image shows (Anil et al. 2018, section 3.3.1).

task = ImageTask(data_dir="imagenet", model_fn=ResNet50, image_size=224, batch_size=256)
task.training(Part(0, 2, seed=1))      images as uint8 [B, H, W, 3], labels as int32 [B]

<workdir>/group_0/
    student.keras            the model: logits of uint8 pixels
    images/manifest.json     names of the classes, size and crop of the images, what was trained on
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import gin
import keras
import tensorflow as tf

from tf_codistill import files, settings
from tf_codistill.batches import Stream
from tf_codistill.image_files import folders
from tf_codistill.inputs.images import decoding
from tf_codistill.inputs.images.sources import ImageData, open_images
from tf_codistill.inputs.images.stream import HeldOutImages, ImageStream
from tf_codistill.inputs.order import Order
from tf_codistill.inputs.partition import SWITCHES
from tf_codistill.jobs.stages import fingerprint
from tf_codistill.tasks.base import HELD_OUT, Part, Task, mean_of_logits

_TOP = 5


@gin.configurable(module="tf_codistill")
@dataclasses.dataclass(kw_only=True)
class ImageTask(Task):
    """What an image classifier learns.

    Attributes:
        data_dir: Directory with class folders ``train/<class>/`` and ``validation/<class>/``, or with
            records, see `inputs.images.sources`.
        model_fn: Makes the model from ``num_classes``, ``input_shape`` and ``batch_size``, the images of one
            replica (None for a model that is served): logits [B, C] of RGB pixels, uint8 [B, H, W, 3].
        peer_model_fns: Makes the models of groups that train another architecture than `model_fn`, by group,
            or by student if there are several.
        image_size: Height and width of an image in pixels.
        batch_size: Images of a group in a step, over all its workers and replicas.
        label_smoothing: Share of the target that is spread evenly over all classes, 0 to less than 1.
        augmentation: ``inception`` (a window of 8 to 100 % of the area), ``pad_crop`` (for small images) or
            ``none``, see `inputs.images.decoding`. After ``inception`` what is evaluated is the centre crop,
            of 87.5 % of the short side; otherwise all of it.
        data: ``disjoint`` if each group reads its own part of the images, ``same`` if all read all, each in
            an order of its own, ``same_batches`` if all are given the same batches, augmentation included.
        held_out: The part that is evaluated, ``validation`` or ``test``.
        max_damaged_share: The largest share of images that may be of no use, see `inputs.images`.
        expected_counts: How many ``classes`` there are to be, and images by part, where that is known: of
            ImageNet 1000, 1281167 in ``train``, 50000 in ``validation``. Nothing is checked by default.
        num_threads: How many images are decoded at a time; by default two for each CPU core.
    """

    units: ClassVar[str] = "images"

    data_dir: str
    model_fn: Callable[..., keras.Model]
    peer_model_fns: Mapping[int, Callable[..., keras.Model]] = dataclasses.field(default_factory=dict)
    image_size: int = 224
    batch_size: int = 256
    label_smoothing: float = 0.0
    augmentation: str = "inception"
    data: str = "disjoint"
    held_out: str = "validation"
    max_damaged_share: float = 0.01
    expected_counts: Mapping[str, int] = dataclasses.field(default_factory=dict)
    num_threads: int | None = None

    def __post_init__(self) -> None:
        settings.check_types(self)
        for name, choices in (
            ("augmentation", decoding.AUGMENTATIONS),
            ("data", SWITCHES),
            ("held_out", HELD_OUT),
        ):
            if getattr(self, name) not in choices:
                expected = ", ".join(map(repr, choices))
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {expected}")
        for name in ("image_size", "batch_size", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}; expected at least 1")
        for name in ("label_smoothing", "max_damaged_share"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; expected 0 to less than 1")

    @functools.cached_property
    def images(self) -> ImageData:
        """The images, open for reading; a `ValueError` if they cannot be opened."""
        images = open_images(self.data_dir, self.max_damaged_share)
        counts = {"classes": len(images.class_names)}
        counts |= {name: part.num_images for name, part in images.parts.items()}
        folders.check_counts(self.expected_counts, counts, self.data_dir)
        return images

    @property
    def centre_share(self) -> float:
        """Share of the short side that is evaluated and served."""
        return decoding.CENTRE_SHARE if self.augmentation == "inception" else 1.0

    @property
    def augments(self) -> bool:
        """Whether there is an `augmentation`."""
        return self.augmentation != "none"

    def training(self, part: Part) -> Stream:
        """The images of a group or student."""
        images = self.images.part("train")
        order = Order.of_group(images.num_images, part.index, part.number, part.seed, self.data)
        return ImageStream(
            part=images,
            size=self.image_size,
            batch_size=self.batch_size,
            order=order,
            seed=order.seed or (),
            augmentation=self.augmentation,
            max_damaged_share=self.max_damaged_share,
            num_threads=self.num_threads,
        )

    def validation(self) -> Stream:
        """All images that are held out."""
        return HeldOutImages(
            part=self.images.part(self.held_out),
            size=self.image_size,
            batch_size=self.batch_size,
            share=self.centre_share,
            max_damaged_share=self.max_damaged_share,
            num_threads=self.num_threads,
        )

    def make_model(self, rows: int | None = None, group: int | None = None) -> keras.Model:
        """Makes a model."""
        make = self.model_fn if group is None else self.peer_model_fns.get(group, self.model_fn)
        shape = (self.image_size, self.image_size, 3)
        return make(num_classes=len(self.images.class_names), input_shape=shape, batch_size=rows)

    def groups_of_their_own(self) -> set[int]:
        """The groups in `peer_model_fns`."""
        return set(self.peer_model_fns)

    def loss(self) -> keras.losses.Loss:
        """Cross-entropy in nats per image, of smoothed labels if they are to be smoothed."""
        if self.label_smoothing:
            return SmoothedCrossEntropy(self.label_smoothing)
        return keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def metrics(self) -> list[keras.metrics.Metric]:
        """Whether the right class is first, or among the first five; cross-entropy without smoothing."""
        metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
        if len(self.images.class_names) > _TOP:
            name = f"top_{_TOP}_accuracy"
            metrics.append(keras.metrics.SparseTopKCategoricalAccuracy(_TOP, name=name))
        if self.label_smoothing:
            metrics.append(
                keras.metrics.SparseCategoricalCrossentropy(name="cross_entropy", from_logits=True)
            )
        return metrics

    def derived(self, averages: Mapping[str, float]) -> dict[str, float]:
        """The share of images whose class is not recognised."""
        return {"error": 1.0 - averages["accuracy"]} if "accuracy" in averages else {}

    def mean_prediction(self, predictions: Sequence[Any]) -> tf.Tensor:
        """Logits of the mean of probabilities."""
        return mean_of_logits(predictions)

    def classes(self) -> str:
        """The names of the classes in their order, as a fingerprint."""
        return f"class names {fingerprint(list(self.images.class_names))}"

    def probabilities(self, predictions: tf.Tensor) -> tf.Tensor:
        """Of each class, ``[B, C]``."""
        return tf.nn.softmax(predictions)

    def serving(self, model: keras.Model, directory: str) -> tf.Module:
        """Takes image files, string ``[B]``: JPEG, or anything else that TensorFlow decodes."""
        kept = files.read_manifest(_images_dir(directory)) or {}
        if kept:
            self._check_kept(directory, kept)
        return ServedImages(model, self.image_size, self.centre_share, list(kept.get("class_names", [])))

    def keep_beside_model(self, directory: str, is_writer: bool = True) -> None:
        """Keeps names of classes, size and fingerprint of the images, or checks what is there already."""
        kept = files.read_manifest(_images_dir(directory))
        if kept is not None:
            self.check_beside_model(directory)
            if kept["fingerprint"] != self.images.fingerprint:
                raise ValueError(
                    f"images {self.data_dir!r} are others than those that the run beside {directory!r} "
                    "began with; use the images that it began with, or another workdir"
                )
        elif is_writer:
            files.make_directory(_images_dir(directory))
            files.commit(_images_dir(directory), {**self._metadata(), **self._classes()})

    def check_beside_model(self, directory: str) -> None:
        """Checks that a model was trained for the same classes, size and crop of images."""
        kept = files.read_manifest(_images_dir(directory))
        if kept is not None:
            self._check_kept(directory, kept)
            if list(kept["class_names"]) != list(self.images.class_names):
                difference = set(kept["class_names"]) ^ set(self.images.class_names)
                raise ValueError(
                    f"images {self.data_dir!r} have {len(self.images.class_names)} classes, the model beside "
                    f"{directory!r} knows {len(kept['class_names'])}, different are "
                    f"{sorted(difference)[:3]}; use images of the classes that it was trained on"
                )

    def _metadata(self) -> dict[str, Any]:
        return {"image_size": self.image_size, "centre_share": self.centre_share}

    def _classes(self) -> dict[str, Any]:
        return {"class_names": list(self.images.class_names), "fingerprint": self.images.fingerprint}

    def _check_kept(self, directory: str, kept: Mapping[str, Any]) -> None:
        for name, value in self._metadata().items():
            if kept.get(name) != value:
                raise ValueError(
                    f"the model beside {directory!r} was trained with {name} = {kept.get(name)}, not "
                    f"{value}; set image_size and augmentation as they were, or use another workdir"
                )


class SmoothedCrossEntropy(keras.losses.Loss):
    """Cross-entropy of smoothed labels: (1 - s) of the label, s spread evenly over all classes.

    Args:
        label_smoothing: s, 0 to less than 1.
    """

    def __init__(self, label_smoothing: float) -> None:
        super().__init__(name="smoothed_cross_entropy")
        self.label_smoothing = label_smoothing

    def call(self, labels: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """The cross-entropy of each image.

        Args:
            labels: Its class, integers [B].
            logits: Predictions, [B, C].

        Returns:
            Nats, [B].
        """
        targets = keras.ops.one_hot(keras.ops.cast(labels, "int32"), logits.shape[-1], dtype=logits.dtype)
        return keras.losses.categorical_crossentropy(
            targets, logits, from_logits=True, label_smoothing=self.label_smoothing
        )


class ServedImages(tf.Module):
    """A model that takes image files.

    Args:
        model: Gives logits [B, C] of pixels, uint8 [B, H, W, 3].
        size: Height and width of an image in pixels.
        share: Share of the short side that the centre crop has.
        class_names: Names of the classes by label, as far as they are known.

    Attributes:
        serve: Takes image files, string [B], returns ``{"probabilities": [B, C]}``; a file that cannot be
            decoded is an error.
        class_names: As given, string [C].
    """

    def __init__(self, model: keras.Model, size: int, share: float, class_names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.class_names = tf.constant(list(class_names), tf.string)
        pixels = tf.TensorSpec([size, size, 3], tf.uint8)

        def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
            decoded = tf.map_fn(
                lambda content: decoding.served_image(content, size, share),
                images,
                fn_output_signature=pixels,
            )
            return {"probabilities": tf.nn.softmax(model(decoded, training=False))}

        signature = [tf.TensorSpec([None], tf.string, "images")]
        self.serve = tf.function(serve, input_signature=signature, autograph=False)


def _images_dir(directory: str) -> str:
    return files.join(directory, "images")
