"""Networks of keras.applications and keras-hub in place of ours."""

from __future__ import annotations

import re
import sys
from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.architecture_test import HOUSE
from tests.toy_models import compiled
from tf_codistill import configurables  # noqa: F401 - names for gin
from tf_codistill.models import resnet
from tf_codistill.models.classifiers import classifier_on

SHAPE = (32, 32, 3)
IMAGES = np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype("uint8")
HUB = {
    "input_conv_filters": [64],
    "input_conv_kernel_sizes": [7],
    "stackwise_num_filters": [64, 64],
    "stackwise_num_blocks": [1, 1],
    "stackwise_num_strides": [1, 2],
    "block_type": "basic_block",
}


def backbone(input_shape: tuple[int, ...], width: int = 3) -> keras.Model:
    """Features [B, D] that are means of pixels."""
    images = keras.Input(input_shape)
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(images * width))


def sequence(image_shape: tuple[int, ...]) -> keras.Model:
    """Features [B, T, D], as transformers have them."""
    return keras.Sequential([keras.Input(image_shape), keras.layers.Reshape((-1, 3))])


def logits_and_kernel(**settings: Any) -> tuple[np.ndarray, np.ndarray]:
    model = classifier_on(5, SHAPE, **settings)
    return np.asarray(model(IMAGES)), np.asarray(model.get_layer("logits").kernel)


def test_features_are_means_over_places():
    mean = ((IMAGES - np.array(resnet.PIXEL_MEAN)) / np.array(resnet.PIXEL_DEVIATION)).mean(axis=(1, 2))
    logits, kernel = logits_and_kernel(backbone=sequence)
    np.testing.assert_allclose(logits, mean @ kernel, rtol=1e-3, atol=1e-5)
    logits, kernel = logits_and_kernel(backbone=backbone, arguments={"width": 2})
    np.testing.assert_allclose(logits, 2 * mean @ kernel, rtol=1e-3, atol=1e-5)


def test_preprocessing_may_be_named():
    logits, kernel = logits_and_kernel(
        backbone=backbone, preprocessing="keras.applications.mobilenet_v2.preprocess_input"
    )
    mean = (IMAGES / 127.5 - 1).mean(axis=(1, 2))
    np.testing.assert_allclose(logits, 3 * mean @ kernel, rtol=1e-3, atol=1e-5)
    logits, kernel = logits_and_kernel(backbone=backbone, preprocessing=keras.layers.Rescaling(1 / 255))
    np.testing.assert_allclose(logits, IMAGES.mean(axis=(1, 2)) / 85 @ kernel, rtol=1e-3, atol=1e-5)


def test_an_application_has_its_own_preprocessing(tmp_path):
    settings = {"backbone": "keras.applications.MobileNetV2", "arguments": {"alpha": 0.35}}
    model = classifier_on(5, SHAPE, 4, **settings, dtype="mixed_bfloat16")
    assert keras.config.dtype_policy().name == "float32"
    network = next(layer for layer in model.layers if isinstance(layer, keras.Model))
    assert {layer.compute_dtype for layer in network.layers} == {"bfloat16"}
    assert model(IMAGES).dtype == tf.float32
    exact = classifier_on(5, SHAPE, **settings)
    pixels = keras.applications.mobilenet_v2.preprocess_input(IMAGES.astype("float32"))
    (network,) = [layer for layer in exact.layers if isinstance(layer, keras.Model)]
    features = np.mean(network(pixels), axis=(1, 2))
    kernel = np.asarray(exact.get_layer("logits").kernel)
    np.testing.assert_allclose(exact(IMAGES), features @ kernel, rtol=1e-3, atol=1e-5)
    exact.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(loaded(IMAGES), exact(IMAGES), rtol=1e-5, atol=1e-6)


def test_a_network_of_keras_hub_trains():
    pytest.importorskip("keras_hub", reason="the extra `hub` is not installed")
    name = "keras_hub.models.ResNetBackbone"
    model = compiled(None, rate=0.1, model_fn=lambda: classifier_on(5, SHAPE, backbone=name, arguments=HUB))
    data = tf.data.Dataset.from_tensors((IMAGES, np.arange(4))).repeat(4)
    losses = [model.fit(data, verbose=0).history["loss"][0] for _ in range(2)]
    assert losses[1] < losses[0]


def test_nothing_is_imported_that_nobody_asks_for():
    assert not [
        module for module, source in HOUSE.items() if re.search(r"import keras_hub|from keras_hub", source)
    ]


@pytest.mark.usefixtures("fresh_gin")
def test_gin_names_it():
    gin.parse_config(
        ["ClassifierOn.backbone = 'tests.models.classifiers_test.backbone'", "ClassifierOn.arguments = {}"]
    )
    model = gin.get_configurable("ClassifierOn")(num_classes=5, input_shape=SHAPE, batch_size=4)
    assert model.input.shape == (4, *SHAPE)
    assert model.input.dtype == "uint8"


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (
            {"backbone": "keras.applications.Nothing"},
            "'keras.applications.Nothing', which cannot be imported",
        ),
        ({"backbone": "keras.Nothing.at_all"}, "expected a name such as 'keras.applications.MobileNetV2'"),
        ({"backbone": "MobileNetV2"}, "backbone is 'MobileNetV2', which cannot be imported"),
        (
            {"backbone": "no_such_package.f"},
            "backbone is 'no_such_package.f', but no_such_package is not inst",
        ),
        ({"backbone": backbone, "preprocessing": "keras.nothing"}, "preprocessing is 'keras.nothing'"),
        (
            {"backbone": backbone, "arguments": {"widht": 2}},
            "backbone backbone are input_shape, widht: got an unexpected keyword argument 'widht'; expected "
            "some of input_shape, width",
        ),
        ({"backbone": lambda image_shape: 3}, "returned 3; expected a Keras model"),
        ({"backbone": backbone, "num_classes": 0}, "num_classes is 0"),
    ],
)
def test_bad_arguments_are_told(bad, message):
    with pytest.raises(ValueError, match=message):
        classifier_on(**{"num_classes": 5, "input_shape": SHAPE, **bad})


def test_several_features_are_refused():
    def pyramid(image_shape: tuple[int, ...]) -> keras.Model:
        images = keras.Input(image_shape)
        return keras.Model(images, {"a": images, "b": images + 1})

    with pytest.raises(ValueError, match="the backbone returns dict; expected one tensor of features"):
        classifier_on(5, SHAPE, backbone=pyramid)


def test_without_keras_hub_the_extra_is_named(monkeypatch):
    for module in ("keras_hub", "keras_hub.models"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match=r"keras_hub is not installed; .*pip install 'tf_codistill\[hub\]'"):
        classifier_on(5, SHAPE, backbone="keras_hub.models.ResNetBackbone")
