"""Two groups codistil an image classifier, taking turns: ``python -m examples.image_classifier``."""

import tempfile

import keras

import tf_codistill
from examples import images

train_images, train_labels, num_classes = images.load(seed=0)
test_images, test_labels, _ = images.load(seed=1)


def classifier() -> keras.Model:
    """Makes the student and each teacher; its outputs are logits."""
    layers = keras.layers
    convolutions = [layers.Conv2D(units, 3, strides=2, activation="relu") for units in (16, 32, 64)]
    rescaled = [keras.Input(train_images.shape[1:]), layers.Rescaling(1 / 128, -1)]
    return keras.Sequential([*rescaled, *convolutions, layers.Flatten(), layers.Dense(num_classes)])


with tempfile.TemporaryDirectory() as exchange:
    models = []
    for group in range(2):
        peers = tf_codistill.PeerExchange(exchange, group, num_groups=2, every_steps=25)
        weight = tf_codistill.schedules.BurnIn(steps=50, weight=1.0)
        models.append(tf_codistill.CodistillationModel(classifier, peers, distillation_weight=weight))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        models[group].compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
    for turn in range(12):
        models[turn % 2].fit(train_images, train_labels, verbose=2)

for group, model in enumerate(models):
    _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
    print(f"group {group}: accuracy {accuracy:.3f} on images that it has not seen")
