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
    groups = []
    for group in range(2):
        weight = tf_codistill.schedules.BurnIn(steps=50, weight=1.0)
        model = tf_codistill.CodistillationModel(classifier, num_teachers=1, distillation_weight=weight)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
        groups.append((model, tf_codistill.PeerExchange(exchange, group, num_groups=2, every_steps=25)))
    for _ in range(6):
        for model, peers in groups:
            model.fit(train_images, train_labels, callbacks=[peers], verbose=2)

for group, (model, _) in enumerate(groups):
    _, accuracy = model.evaluate(test_images, test_labels, verbose=0)
    print(f"group {group}: accuracy {accuracy:.3f} on images that it has not seen")
