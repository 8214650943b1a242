"""Residual networks for images, with the details of Goyal et al. 2017, section 5.1.

    uint8 [B, H, W, 3] -> (pixel - mean) / deviation -> 7x7 / 2, max 3x3 / 2 -> stages -> mean, logits [B, C]

    block   x -> 1x1 -> 3x3 / stride -> 1x1, gamma 0 --+-> relu       50, 101, 152 layers, and ResNeXt
            x -> 3x3 / stride -> 3x3, gamma 0 ---------+-> relu       18, 34 layers, and CIFAR-size ones
            x -> 1x1 / stride, where shapes differ ----+              no bias; each followed by batch norm

    model = resnet(num_classes=1000, input_shape=(224, 224, 3), depth=50)        25,557,032 trainable weights

Models are functional and made of Keras's own layers, so that a saved one is loaded without this package.
`classifiers` puts the networks of others in their place.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gin
import keras

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_DEVIATION = (58.395, 57.12, 57.375)
"""Of the red, green and blue of ImageNet's training images, in 0..255."""

BLOCKS = {
    18: (2, 2, 2, 2),
    34: (3, 4, 6, 3),
    50: (3, 4, 6, 3),
    101: (3, 4, 23, 3),
    152: (3, 8, 36, 3),
}
"""Blocks in each stage by depth (He et al. 2015, table 1)."""

_FIRST_BOTTLENECK = 50


@gin.configurable("ResNet", module="tf_codistill")
def resnet(
    num_classes: int,
    input_shape: Sequence[int],
    batch_size: int | None = None,
    depth: int = 50,
    zero_gamma: bool = True,
    synchronized: bool = False,
    name: str = "resnet",
    dtype: Any = None,
) -> keras.Model:
    """A residual network (He et al. 2015) in its version 1.5: the 3x3 convolution of a block has the stride.

    Args:
        num_classes: Number of logits.
        input_shape: Height, width and channels of the images; three channels, red, green and blue.
        batch_size: Images in a batch of one replica; None for any number.
        depth: 18, 34, 50, 101 or 152 layers.
        zero_gamma: Whether the last batch norm of each block starts at 0, and with it every block as the
            identity, which eases the first steps with large batches (Goyal et al. 2017).
        synchronized: Whether means and variances are those of the batches of all replicas; otherwise each
            replica normalises by its own images, as Goyal et al. 2017 do with 32 (section 3), and what it
            computes depends on how many there are. Not together with ``jit_compile`` and several replicas:
            within XLA they cannot meet.
        name: Name of the model.
        dtype: Keras dtype policy such as "mixed_bfloat16"; None for the global one. Logits are at least
            float32.

    Returns:
        A model from uint8 images [B, H, W, 3] to logits [B, num_classes].

    Raises:
        ValueError: A size is out of its range.
    """
    blocks = _blocks("depth of a ResNet", depth, BLOCKS)
    style = _Style(num_classes, input_shape, batch_size, zero_gamma, synchronized, name, dtype)
    if depth < _FIRST_BOTTLENECK:
        return style.imagenet_model(blocks, _basic)
    return style.imagenet_model(blocks, functools.partial(_bottleneck, groups=1, group_width=64))


@gin.configurable("ResNeXt", module="tf_codistill")
def resnext(
    num_classes: int,
    input_shape: Sequence[int],
    batch_size: int | None = None,
    depth: int = 50,
    groups: int = 32,
    group_width: int = 4,
    zero_gamma: bool = True,
    synchronized: bool = False,
    name: str = "resnext",
    dtype: Any = None,
) -> keras.Model:
    """A ResNeXt (Xie et al. 2017): the 3x3 convolution of a block looks at its channels in groups.

    On CPUs TensorFlow has no kernel for the gradient of such a convolution, but XLA has:
    ``Experiment.jit_compile = True``.

    Args:
        num_classes: Number of logits.
        input_shape: Height, width and channels of the images.
        batch_size: Images in a batch of one replica; None for any number.
        depth: 50, 101 or 152 layers.
        groups: Groups of channels.
        group_width: Channels of each of them in the first stage; 32 groups of 4 are called 32x4d.
        zero_gamma: As for `resnet`.
        synchronized: As for `resnet`.
        name: Name of the model.
        dtype: As for `resnet`.

    Returns:
        A model from uint8 images [B, H, W, 3] to logits [B, num_classes].

    Raises:
        ValueError: A size is out of its range.
    """
    blocks = _blocks("depth of a ResNeXt", depth, {d: b for d, b in BLOCKS.items() if d >= _FIRST_BOTTLENECK})
    _check_count("groups", groups)
    _check_count("group_width", group_width)
    style = _Style(num_classes, input_shape, batch_size, zero_gamma, synchronized, name, dtype)
    return style.imagenet_model(
        blocks, functools.partial(_bottleneck, groups=groups, group_width=group_width)
    )


@gin.configurable("CifarResNet", module="tf_codistill")
def cifar_resnet(
    num_classes: int,
    input_shape: Sequence[int],
    batch_size: int | None = None,
    depth: int = 20,
    num_filters: int = 16,
    zero_gamma: bool = True,
    synchronized: bool = False,
    name: str = "cifar_resnet",
    dtype: Any = None,
) -> keras.Model:
    """A residual network for images of about 32 x 32 pixels (He et al. 2015, section 4.2).

    Three stages at the full, half and quarter of the size. Where shapes differ, what goes past a block drops
    every second row and column and gets channels of zeros: no weights (their option A).

    Args:
        num_classes: Number of logits.
        input_shape: Height, width and channels of the images.
        batch_size: Images in a batch of one replica; None for any number.
        depth: Layers, 6n + 2: 8, 14, 20, 32, 44, 56, 110.
        num_filters: Channels of the first stage; the others have two and four times as many.
        zero_gamma: As for `resnet`.
        synchronized: As for `resnet`.
        name: Name of the model.
        dtype: As for `resnet`.

    Returns:
        A model from uint8 images [B, H, W, 3] to logits [B, num_classes].

    Raises:
        ValueError: A size is out of its range.
    """
    _check_count("num_filters", num_filters)
    _check_count("depth", depth)
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth of a CifarResNet is {depth!r}; expected 6n + 2, such as 8, 14, 20 or 56")
    style = _Style(num_classes, input_shape, batch_size, zero_gamma, synchronized, name, dtype)
    images = keras.Input(style.input_shape, style.batch_size, dtype="uint8", name="images")
    x = style.normed(style.pixels(images), num_filters, 3, name="stem")
    block = functools.partial(_basic, has_weights_past=False)
    for stage in range(3):
        x = _stage(style, x, block, stage, (depth - 2) // 6, num_filters * 2**stage)
    return keras.Model(images, style.logits(x), name=name)


def normalized_pixels(images: Any, dtype: Any) -> Any:
    """Pixels of mean 0 and deviation 1, about.

    Args:
        images: Red, green and blue in 0..255, [B, H, W, 3].
        dtype: Type or dtype policy of the result.

    Returns:
        The normalised pixels, [B, H, W, 3].
    """
    mean, variance = list(PIXEL_MEAN), [deviation**2 for deviation in PIXEL_DEVIATION]
    return keras.layers.Normalization(mean=mean, variance=variance, dtype=dtype, name="pixels")(images)


def logits_of(features: Any, num_classes: int, dtype: Any) -> Any:
    """The last layer: weights start as N(0, 0.01) (Goyal et al. 2017, section 5.1).

    Args:
        features: [B, D].
        num_classes: Number of logits, C.
        dtype: Type of the logits.

    Returns:
        Logits [B, C].
    """
    initial = keras.initializers.RandomNormal(stddev=0.01)
    return keras.layers.Dense(num_classes, kernel_initializer=initial, dtype=dtype, name="logits")(features)


def exact_dtype(policy: keras.DTypePolicy) -> str:
    """In what pixels are normalised and logits computed: float64 if all is, otherwise float32."""
    return "float64" if policy.compute_dtype == "float64" else "float32"


def check_images(num_classes: int, input_shape: Sequence[int], batch_size: int | None) -> None:
    """Checks what a task asks of a model.

    Args:
        num_classes: Number of logits.
        input_shape: Height, width and channels.
        batch_size: Images in a batch, or None.

    Raises:
        ValueError: One of them is out of its range.
    """
    _check_count("num_classes", num_classes)
    if batch_size is not None:
        _check_count("batch_size", batch_size)
    if len(input_shape) != 3 or input_shape[2] != 3:
        raise ValueError(f"input_shape is {input_shape!r}; expected height, width and 3 channels")
    for name, size in zip(("height", "width"), input_shape, strict=False):
        _check_count(f"{name} in input_shape", size)


@dataclasses.dataclass(frozen=True)
class _Style:
    """What all layers of a network have in common."""

    num_classes: int
    shape: Sequence[int]
    batch_size: int | None
    zero_gamma: bool
    synchronized: bool
    name: str
    dtype: Any

    def __post_init__(self) -> None:
        check_images(self.num_classes, self.shape, self.batch_size)

    @property
    def input_shape(self) -> tuple[int, ...]:
        return tuple(self.shape)

    @property
    def policy(self) -> keras.DTypePolicy:
        return keras.dtype_policies.get(self.dtype or keras.config.dtype_policy())

    def pixels(self, images: Any) -> Any:
        return normalized_pixels(images, exact_dtype(self.policy))

    def logits(self, x: Any) -> Any:
        features = keras.layers.GlobalAveragePooling2D(dtype=self.policy, name="features")(x)
        return logits_of(features, self.num_classes, exact_dtype(self.policy))

    def convolution(
        self, x: Any, num_filters: int, size: int, stride: int = 1, groups: int = 1, name: str = ""
    ) -> Any:
        """Without bias; padded alike on all sides, as TensorFlow's "same" would not with a stride."""
        if stride > 1 and size > 1:
            x = keras.layers.ZeroPadding2D(size // 2, dtype=self.policy, name=f"{name}_pad")(x)
        return keras.layers.Conv2D(
            num_filters,
            size,
            stride,
            "same" if stride == 1 else "valid",
            groups=groups,
            use_bias=False,
            # He et al. 2015b with the number of outputs, untruncated; a new one, as each draws one seed
            kernel_initializer=keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal"),
            dtype=self.policy,
            name=f"{name}_conv",
        )(x)

    def batch_norm(self, x: Any, name: str, is_last: bool = False) -> Any:
        """Momentum and epsilon of Goyal et al. 2017; gamma of 0 where a block ends."""
        return keras.layers.BatchNormalization(
            momentum=0.9,
            epsilon=1e-5,
            gamma_initializer="zeros" if is_last and self.zero_gamma else "ones",
            synchronized=self.synchronized,
            dtype=self.policy,
            name=f"{name}_norm",
        )(x)

    def normed(
        self, x: Any, num_filters: int, size: int, stride: int = 1, groups: int = 1, name: str = ""
    ) -> Any:
        """Convolution, batch norm, ReLU."""
        x = self.batch_norm(self.convolution(x, num_filters, size, stride, groups, name), name)
        return self.relu(x, name)

    def relu(self, x: Any, name: str) -> Any:
        return keras.layers.ReLU(dtype=self.policy, name=f"{name}_relu")(x)

    def imagenet_model(self, num_blocks: Sequence[int], block: Callable[..., Any]) -> keras.Model:
        images = keras.Input(self.input_shape, self.batch_size, dtype="uint8", name="images")
        x = self.normed(self.pixels(images), 64, 7, stride=2, name="stem")
        # Zeros are as good as nothing beside what a ReLU has left.
        x = keras.layers.ZeroPadding2D(1, dtype=self.policy, name="pool_pad")(x)
        x = keras.layers.MaxPooling2D(3, 2, dtype=self.policy, name="pool")(x)
        for stage, number in enumerate(num_blocks):
            x = _stage(self, x, block, stage, number, 64 * 2**stage)
        return keras.Model(images, self.logits(x), name=self.name)


def _stage(
    style: _Style, x: Any, block: Callable[..., Any], stage: int, num_blocks: int, num_filters: int
) -> Any:
    """Blocks of one size; the first of all but the first stage halves height and width."""
    for number in range(num_blocks):
        stride = 2 if stage and not number else 1
        x = block(style, x, num_filters, stride, name=f"stage_{stage + 1}_block_{number + 1}")
    return x


def _basic(
    style: _Style, x: Any, num_filters: int, stride: int, name: str, has_weights_past: bool = True
) -> Any:
    past = _past if has_weights_past else _past_without_weights
    shortcut = past(style, x, num_filters, stride, name)
    x = style.normed(x, num_filters, 3, stride, name=f"{name}_1")
    x = style.convolution(x, num_filters, 3, name=f"{name}_2")
    return _joined(style, shortcut, x, name, last=2)


def _bottleneck(
    style: _Style, x: Any, num_filters: int, stride: int, name: str, groups: int, group_width: int
) -> Any:
    inner = num_filters * group_width // 64 * groups
    shortcut = _past(style, x, 4 * num_filters, stride, name)
    x = style.normed(x, inner, 1, name=f"{name}_1")
    x = style.normed(x, inner, 3, stride, groups, name=f"{name}_2")
    x = style.convolution(x, 4 * num_filters, 1, name=f"{name}_3")
    return _joined(style, shortcut, x, name, last=3)


def _joined(style: _Style, shortcut: Any, x: Any, name: str, last: int) -> Any:
    x = style.batch_norm(x, f"{name}_{last}", is_last=True)
    return style.relu(keras.layers.Add(dtype=style.policy, name=f"{name}_add")([shortcut, x]), name)


def _past(style: _Style, x: Any, num_filters: int, stride: int, name: str) -> Any:
    """What goes past a block: itself, or where shapes differ a 1x1 convolution with batch norm."""
    if stride == 1 and x.shape[-1] == num_filters:
        return x
    x = style.convolution(x, num_filters, 1, stride, name=f"{name}_past")
    return style.batch_norm(x, f"{name}_past")


def _past_without_weights(style: _Style, x: Any, num_filters: int, stride: int, name: str) -> Any:
    if stride > 1:
        x = keras.layers.AveragePooling2D(1, stride, dtype=style.policy, name=f"{name}_past")(x)
    missing = num_filters - x.shape[-1]
    if not missing:
        return x
    return keras.ops.pad(x, [[0, 0], [0, 0], [0, 0], [missing // 2, missing - missing // 2]])


def _blocks(name: str, depth: int, known: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    if depth not in known:
        raise ValueError(f"{name} is {depth!r}; expected one of {', '.join(map(str, known))}")
    return known[depth]


def _check_count(name: str, number: Any) -> None:
    if isinstance(number, bool) or not isinstance(number, int) or number < 1:
        raise ValueError(f"{name} is {number!r}; expected an integer >= 1")
