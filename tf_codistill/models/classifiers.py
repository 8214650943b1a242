"""Image classifiers on networks of others: any of keras.applications or keras-hub in place of `resnet`.

    ImageTask.model_fn = @ClassifierOn
    ClassifierOn.backbone = 'keras.applications.MobileNetV2'
    ClassifierOn.arguments = {'alpha': 0.35}

    ClassifierOn.backbone = 'keras_hub.models.Backbone.from_preset'             needs the extra `hub`
    ClassifierOn.arguments = {'preset': 'resnet_50_imagenet'}

    uint8 [B, H, W, 3] -> its preprocessing -> backbone -> mean over places -> logits [B, C]

A network is named, not imported: what nobody asks for is not loaded. Its batch norm, its initial weights
and its dropout are its own; Goyal's details are in `resnet` alone.
"""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import gin
import keras

from tf_codistill.models import by_name, resnet

_SHAPE_ARGUMENTS = ("input_shape", "image_shape")
_APPLICATION = {"include_top": False, "weights": None}


@gin.configurable("ClassifierOn", module="tf_codistill")
def classifier_on(
    num_classes: int,
    input_shape: Sequence[int],
    batch_size: int | None = None,
    *,
    backbone: str | Callable[..., keras.Model],
    arguments: Mapping[str, Any] | None = None,
    preprocessing: str | Callable[[Any], Any] | None = None,
    name: str = "classifier",
    dtype: Any = None,
) -> keras.Model:
    """A classifier on a network without its last layer.

    Args:
        num_classes: Number of logits.
        input_shape: Height, width and channels of the images.
        batch_size: Images in a batch of one replica; None for any number.
        backbone: Makes the network, or where that is imported from. It is given `input_shape` or
            ``image_shape``, whichever it takes, and returns a model from images to features [B, H, W, D],
            [B, T, D] or [B, D].
        arguments: What else it is given. Networks of keras.applications start without weights and have no
            last layer unless this says otherwise.
        preprocessing: A function or layer, or where it is imported from, that is given float pixels in
            0..255; None for the network's own, the ``preprocess_input`` beside it, or where it has none for
            pixels of mean 0 and deviation 1 as `resnet` takes them.
        name: Name of the model.
        dtype: Keras dtype policy such as "mixed_bfloat16"; None for the global one. Logits are at least
            float32.

    Returns:
        A model from uint8 images [B, H, W, 3] to logits [B, num_classes].

    Raises:
        ValueError: A size is out of its range, there is no such network, or it does not take what it is
            given.
    """
    resnet.check_images(num_classes, input_shape, batch_size)
    make = by_name.imported("backbone", backbone)
    policy = keras.dtype_policies.get(dtype or keras.config.dtype_policy())
    with _global_policy(policy):
        network = _network(make, tuple(input_shape), dict(arguments or {}))
        images = keras.Input(tuple(input_shape), batch_size, dtype="uint8", name="images")
        features = _mean_over_places(network(_preprocessed(images, preprocessing, make, policy)))
        logits = resnet.logits_of(features, num_classes, resnet.exact_dtype(policy))
    return keras.Model(images, logits, name=name)


def _network(make: Callable[..., Any], shape: tuple[int, ...], arguments: dict[str, Any]) -> keras.Model:
    signature, name = inspect.signature(make), getattr(make, "__qualname__", repr(make))
    is_application = make.__module__.startswith("keras.") and "include_top" in signature.parameters
    of_shape = next((one for one in _SHAPE_ARGUMENTS if one in signature.parameters), "image_shape")
    given = {**(_APPLICATION if is_application else {}), of_shape: shape, **arguments}
    try:
        signature.bind(**given)
    except TypeError as error:
        raise ValueError(
            f"arguments of the backbone {name} are {', '.join(sorted(given))}: {error}; expected some of "
            f"{', '.join(signature.parameters)}"
        ) from error
    network = make(**given)
    if not isinstance(network, keras.Model):
        raise ValueError(f"backbone {name} returned {network!r}; expected a Keras model")
    return network


def _preprocessed(images: Any, preprocessing: Any, make: Callable[..., Any], policy: Any) -> Any:
    exact = resnet.exact_dtype(policy)
    if preprocessing is None:
        preprocessing = getattr(sys.modules.get(make.__module__), "preprocess_input", None)
    if preprocessing is None:
        return resnet.normalized_pixels(images, exact)
    function = by_name.imported("preprocessing", preprocessing)
    return function(keras.ops.cast(images, exact))


def _mean_over_places(features: Any) -> Any:
    if isinstance(features, dict | list | tuple):
        raise ValueError(f"the backbone returns {type(features).__name__}; expected one tensor of features")
    axes = tuple(range(1, len(features.shape) - 1))
    return keras.ops.mean(features, axis=axes) if axes else features


@contextlib.contextmanager
def _global_policy(policy: keras.DTypePolicy) -> Iterator[None]:
    """Networks of keras.applications take no policy."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)
