"""Residual networks: sizes, layout against an independent one, Goyal's details, wherever they are trained."""

from __future__ import annotations

import functools
import json
import re
from typing import Any

import gin
import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.replicas import two_replicas
from tests.toy_models import compiled
from tf_codistill import configurables, schedules, weights  # noqa: F401 - names for gin
from tf_codistill.models import resnet as module
from tf_codistill.models.resnet import cifar_resnet, resnet, resnext
from tf_codistill.teaching import quantized_model
from tf_codistill.teaching.fellows import FellowStudents

RNG = np.random.default_rng(0)
SMALL = (16, 16, 3)
IMAGES = RNG.integers(0, 256, (8, *SMALL)).astype("uint8")
LABELS = RNG.integers(0, 5, 8).astype("int32")


def toy(**settings: Any) -> keras.Model:
    """A CIFAR-size network of few weights, every one of which matters."""
    return cifar_resnet(**{"num_classes": 5, "input_shape": SMALL, "depth": 8, "num_filters": 4, **settings})


@pytest.fixture
def three_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two stages, and one block that nothing but itself goes past."""
    for depth in (18, 50):
        monkeypatch.setitem(module.BLOCKS, depth, (1, 2))


@pytest.fixture
def zero_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time to sample them."""
    monkeypatch.setattr(keras.initializers, "VarianceScaling", lambda *_: keras.initializers.Zeros())


def num_trainable(model: keras.Model) -> int:
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


def randomized(model: keras.Model, seed: int = 0) -> keras.Model:
    """Where no gain is 1, no bias and no mean 0."""
    rng = np.random.default_rng(seed)
    for variable in model.weights:
        noise = rng.normal(size=variable.shape)
        if len(variable.shape) > 1:
            variable.assign(noise / np.sqrt(np.prod(variable.shape[:-1])))
        else:
            positive = re.search("gamma|variance", variable.path)
            variable.assign(np.exp(0.3 * noise) if positive else 0.3 * noise)
    return model


@pytest.mark.parametrize(
    ("make", "depth", "number"),
    [
        (resnet, 18, 11_689_512),
        (resnet, 34, 21_797_672),
        (resnet, 50, 25_557_032),
        (resnet, 101, 44_549_160),
        (resnext, 50, 25_028_904),
        (resnext, 101, 44_177_704),
    ],
)
@pytest.mark.usefixtures("zero_weights")
def test_sizes_of_imagenet_networks(make, depth, number):
    assert num_trainable(make(num_classes=1000, input_shape=(224, 224, 3), depth=depth)) == number


@pytest.mark.usefixtures("zero_weights")
def test_moving_statistics_are_weights_too():
    model = resnet(1000, (224, 224, 3))
    assert model.count_params() == 25_610_152
    assert len(model.trainable_variables) == 53 + 2 * 53 + 2


@pytest.mark.parametrize(("depth", "number"), [(8, 75_290), (14, 172_506), (20, 269_722), (56, 853_018)])
def test_sizes_of_small_networks(depth, number):
    """269,722 and 853,018 are known as 0.27 M and 0.85 M (He et al. 2015, table 6)."""
    assert num_trainable(cifar_resnet(10, (32, 32, 3), depth=depth)) == number


def of_keras_hub(depth: int) -> keras.Model:
    models = pytest.importorskip("keras_hub", reason="the extra `hub` is not installed").models
    return models.ResNetBackbone(
        input_conv_filters=[64],
        input_conv_kernel_sizes=[7],
        stackwise_num_filters=[64, 128],
        stackwise_num_blocks=module.BLOCKS[depth],
        stackwise_num_strides=[1, 2],
        block_type="basic_block" if depth < 50 else "bottleneck_block",
        image_shape=(64, 64, 3),
        dtype="float64",
    )


def name_in_keras_hub(name: str) -> str:
    """``stage_2_block_1_past_norm`` is there called ``stack1_block0_0_bn``."""
    name = name.replace("_norm", "_bn").replace("stem_", "conv1_").replace("past", "0")
    return re.sub(
        r"stage_(\d)_block_(\d)", lambda found: f"stack{int(found[1]) - 1}_block{int(found[2]) - 1}", name
    )


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("depth", [18, 50])
@pytest.mark.usefixtures("three_blocks")
def test_equal_weights_give_the_features_of_keras_hub(monkeypatch, depth, training):
    """Its layout is the same: strides on 3x3 convolutions, padding alike on all sides, no biases."""
    monkeypatch.setattr(module, "PIXEL_MEAN", (128.0,) * 3)  # so that pixels are exact in float32, which its
    monkeypatch.setattr(module, "PIXEL_DEVIATION", (64.0,) * 3)  # input has
    ours = randomized(resnet(5, (64, 64, 3), depth=depth, dtype="float64"))
    theirs = of_keras_hub(depth)
    layers = [layer for layer in ours.layers if layer.weights and layer.name not in ("logits", "pixels")]
    assert {name_in_keras_hub(layer.name) for layer in layers} == {
        layer.name for layer in theirs.layers if layer.weights
    }
    for layer in layers:
        theirs.get_layer(name_in_keras_hub(layer.name)).set_weights(layer.get_weights())
    images = RNG.integers(0, 256, (3, 64, 64, 3)).astype("uint8")
    pixels = (images - 128.0) / 64
    features = np.mean(theirs(pixels, training=training), axis=(1, 2))
    expected = features @ ours.get_layer("logits").kernel + ours.get_layer("logits").bias
    np.testing.assert_allclose(ours(images, training=training), expected, rtol=1e-9, atol=1e-9)
    for layer in layers:  # momentum and epsilon
        twin = theirs.get_layer(name_in_keras_hub(layer.name))
        for own, other in zip(layer.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_allclose(own, other, rtol=1e-9, atol=1e-9)


def block_diagonal(kernel: np.ndarray, groups: int) -> np.ndarray:
    """What a convolution in groups is without them: most of the weights are 0."""
    size, _, width, outputs = kernel.shape
    whole = np.zeros((size, size, width * groups, outputs), kernel.dtype)
    for group in range(groups):
        out = slice(group * outputs // groups, (group + 1) * outputs // groups)
        whole[:, :, group * width : (group + 1) * width, out] = kernel[..., out]
    return whole


@pytest.mark.usefixtures("three_blocks")
def test_groups_are_blocks_of_a_whole_convolution_and_train_under_xla():
    """On CPUs TensorFlow itself has no gradient of a convolution in groups."""
    images, labels = tf.constant(IMAGES[:4]), tf.constant(LABELS[:4])
    grouped = randomized(resnext(5, SMALL, groups=2, group_width=32, zero_gamma=False, dtype="float64"))
    whole = resnet(5, SMALL, zero_gamma=False, dtype="float64")
    shapes = {variable.path: variable for variable in whole.weights}
    is_grouped = [variable.shape != shapes[variable.path].shape for variable in grouped.weights]
    assert sum(is_grouped) == 3
    for variable in grouped.weights:
        twin, value = shapes[variable.path], variable.numpy()
        twin.assign(value if twin.shape == variable.shape else block_diagonal(value, 2))

    def step(model: keras.Model) -> tuple[Any, Any]:
        with tf.GradientTape() as tape:
            logits = model(images, training=True)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits))
        return logits, tape.gradient(loss, [variable.value for variable in model.trainable_variables])

    logits, gradients = tf.function(step, jit_compile=True)(grouped)
    expected, whole_gradients = tf.function(step)(whole)
    np.testing.assert_allclose(logits, expected, rtol=1e-8, atol=1e-8)
    by_path = dict(zip([one.path for one in whole.trainable_variables], whole_gradients, strict=True))
    for variable, gradient in zip(grouped.trainable_variables, gradients, strict=True):
        other = by_path[variable.path].numpy()
        if gradient.shape != other.shape:
            gradient = block_diagonal(gradient.numpy(), 2)
            other = np.where(block_diagonal(np.ones(variable.shape), 2), other, 0)
        assert np.abs(other).max() > 1e-6
        np.testing.assert_allclose(gradient, other, rtol=1e-6, atol=1e-8 * np.abs(other).max())


def test_a_network_with_groups_is_fitted_under_xla(monkeypatch):
    monkeypatch.setitem(module.BLOCKS, 50, (1,))
    model = compiled(None, rate=0.01, model_fn=lambda: resnext(5, SMALL), jit_compile=True)
    before = weights.values(model.student.trainable_variables)
    history = model.fit(data(), verbose=0).history
    assert np.isfinite(history["loss"]).all()
    after = weights.values(model.student.trainable_variables)
    assert any((old != new).any() for old, new in zip(before, after, strict=True))


def data() -> tf.data.Dataset:
    return tf.data.Dataset.from_tensor_slices((IMAGES, LABELS)).batch(8, drop_remainder=True)


# Goyal's details.


@pytest.mark.usefixtures("three_blocks", "zero_weights")
@pytest.mark.parametrize("make", [resnet, cifar_resnet])
def test_every_block_starts_as_the_identity(make):
    model, plain = make(5, SMALL), make(5, SMALL, zero_gamma=False)
    for one, is_zero in ((model, True), (plain, False)):
        last = {"1": [], "2": [], "3": []}
        for layer in one.layers:
            if found := re.fullmatch(r"stage_\d_block_\d_(\d)_norm", layer.name):
                last[found[1]].append(float(np.abs(layer.gamma).max()))
            elif layer.name.endswith("_norm"):
                assert (np.asarray(layer.gamma) == 1).all(), layer.name
        *others, ends = [gammas for gammas in last.values() if gammas]
        assert ends == [0.0 if is_zero else 1.0] * len(ends)
        assert all(gammas == [1.0] * len(gammas) for gammas in others)


def test_what_goes_past_the_blocks_of_a_small_network_has_no_weights():
    """With gammas at 0 the features are the stem's: every fourth row and column, amid channels of zeros."""
    model = toy()
    stem = keras.Model(model.input, model.get_layer("stem_relu").output)
    features = keras.Model(model.input, model.get_layer("features").output)
    kept = np.asarray(stem(IMAGES))[:, ::4, ::4].mean(axis=(1, 2))
    np.testing.assert_allclose(features(IMAGES), np.pad(kept, [(0, 0), (6, 6)]), rtol=1e-5)


def test_initial_weights():
    keras.utils.set_random_seed(0)
    model, seen = resnet(1000, (64, 64, 3), depth=50), []
    for layer in model.layers:
        if isinstance(layer, keras.layers.Conv2D):
            kernel = np.asarray(layer.kernel)
            fan_out = kernel.shape[0] * kernel.shape[1] * kernel.shape[3]
            assert kernel.std() == pytest.approx(np.sqrt(2 / fan_out), rel=0.05), layer.name
            assert np.abs(kernel).max() > 2.5 * kernel.std(), "not truncated"
            assert layer.bias is None
            seen.append(float(kernel[0, 0, 0, 0]))
    assert len(set(seen)) == len(seen), "each layer draws its own"
    assert np.asarray(model.get_layer("logits").kernel).std() == pytest.approx(0.01, rel=0.02)
    assert not np.asarray(model.get_layer("logits").bias).any()


def test_matrices_alone_are_decayed():
    """Neither gains and biases of batch norm nor the bias of the last layer (Goyal et al. 2017, 5.3)."""
    model = resnet(10, (64, 64, 3), depth=50)
    decayed = schedules.WeightDecay(1e-4).decayed(model.trainable_variables)
    assert {variable.path.rpartition("/")[2] for variable in decayed} == {"kernel"}
    assert len(decayed) == 53 + 1
    others = {id(one) for one in model.trainable_variables} - {id(one) for one in decayed}
    assert len(others) == 2 * 53 + 1


def test_pixels_are_normalised_inside():
    model = toy()
    pixels = keras.Model(model.input, model.get_layer("pixels").output)
    found = np.asarray(
        pixels(np.array([[[[0, 0, 0], [255, 0, 116]]]] * 1, "uint8").repeat(8, 2).repeat(16, 1))
    )
    expected = (np.array([255, 0, 116]) - module.PIXEL_MEAN) / module.PIXEL_DEVIATION
    np.testing.assert_allclose(found[0, 0, -1], expected, rtol=1e-5)
    assert model.input.dtype == "uint8"


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_half_precision_stays_close(policy):
    exact, half = randomized(toy()), toy(dtype=policy)
    half.set_weights(exact.get_weights())
    expected, logits = exact(IMAGES), half(IMAGES)
    assert logits.dtype == tf.float32
    assert half.get_layer("stem_conv").compute_dtype == policy.removeprefix("mixed_")
    assert {variable.dtype for variable in half.weights} == {"float32"}
    np.testing.assert_allclose(logits, expected, atol=0.1 * np.abs(expected).max())
    model = compiled(None, rate=0.01, model_fn=lambda: toy(dtype=policy))
    assert np.isfinite(model.fit(data(), verbose=0).history["loss"]).all()


# Wherever they are trained.


def trained(synchronized: bool, strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    with strategy.scope():
        make = functools.partial(toy, zero_gamma=False, synchronized=synchronized, dtype="float64")
        model = compiled(None, rate=0.05, model_fn=make)
        randomized(model.student)
        model.fit(data().repeat(3), verbose=0)
        values = weights.values(model.student.weights)
        return dict(zip([one.path for one in model.student.weights], values, strict=True))


def test_two_replicas_are_one_if_batch_norm_is_synchronized_and_only_then():
    """Otherwise each normalises by its own images."""
    alone = trained(False, tf.distribute.get_strategy())
    together, apart = trained(True, two_replicas()), trained(False, two_replicas())
    for path, value in alone.items():
        np.testing.assert_allclose(together[path], value, rtol=1e-6, atol=1e-8, err_msg=path)
    assert max(np.abs(apart[path] - value).max() for path, value in alone.items()) > 1e-3


def test_two_students_teach_each_other():
    model = compiled(FellowStudents(num_students=2), rate=0.05, model_fn=toy)
    logs = model.fit(data().repeat(2), verbose=0).history
    assert logs["distillation_loss"][-1] > 0
    assert np.isfinite(logs["total_loss"]).all()


def test_a_quantized_teacher_stays_close():
    model = randomized(toy(num_filters=16))
    expected = model(IMAGES)
    quantized_model.quantize(model, "int8")
    assert isinstance(model.get_layer("stage_1_block_1_1_conv").kernel, quantized_model.QuantizedVariable)
    np.testing.assert_allclose(model(IMAGES), expected, atol=0.05 * np.abs(expected).max())


@pytest.mark.parametrize("make", [toy, lambda **settings: resnet(5, SMALL, depth=18, **settings)])
def test_a_saved_network_needs_nothing_of_ours(tmp_path, make):
    model, served = randomized(make(batch_size=8)), make()
    served.set_weights(model.get_weights())
    assert [one.path for one in served.weights] == [one.path for one in model.weights]
    assert model.input.shape == (8, *SMALL)
    served.save(tmp_path / "model.keras")
    assert "tf_codistill" not in json.dumps(served.get_config())
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded(IMAGES[:3]), served(IMAGES[:3]))
    np.testing.assert_allclose(served(IMAGES), model(IMAGES), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "bindings", "number"),
    [
        ("ResNet", ["ResNet.depth = 18"], 11_181_642),
        ("ResNeXt", ["ResNeXt.groups = 2", "ResNeXt.group_width = 32"], 17_869_898),
        ("CifarResNet", ["CifarResNet.depth = 14", "CifarResNet.synchronized = True"], 172_506),
    ],
)
@pytest.mark.usefixtures("fresh_gin", "zero_weights")
def test_gin_names_them(name, bindings, number):
    gin.parse_config(bindings)
    model = gin.get_configurable(name)(num_classes=10, input_shape=(32, 32, 3), batch_size=None)
    assert num_trainable(model) == number
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert {layer.synchronized for layer in norms} == {name == "CifarResNet"}


@pytest.mark.parametrize(
    ("make", "bad", "message"),
    [
        (resnet, {"depth": 20}, "depth of a ResNet is 20; expected one of 18, 34, 50, 101, 152"),
        (resnext, {"depth": 18}, "depth of a ResNeXt is 18; expected one of 50, 101, 152"),
        (resnext, {"groups": 0}, "groups is 0; expected an integer >= 1"),
        (cifar_resnet, {"depth": 18}, r"depth of a CifarResNet is 18; expected 6n \+ 2"),
        (cifar_resnet, {"depth": 2}, "depth of a CifarResNet is 2"),
        (cifar_resnet, {"num_filters": 1.5}, "num_filters is 1.5"),
        (resnet, {"num_classes": 0}, "num_classes is 0"),
        (resnet, {"batch_size": True}, "batch_size is True"),
        (resnet, {"input_shape": (32, 32)}, r"input_shape is \(32, 32\); expected height, width and 3"),
        (resnet, {"input_shape": (32, 32, 1)}, r"input_shape is \(32, 32, 1\)"),
        (resnet, {"input_shape": (0, 32, 3)}, "height in input_shape is 0"),
    ],
)
def test_bad_arguments_are_told(make, bad, message):
    with pytest.raises(ValueError, match=message):
        make(**{"num_classes": 5, "input_shape": (32, 32, 3), **bad})
