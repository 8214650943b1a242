"""A subclassed model with two outputs, each distilled with a loss and a weight of its own.

    python -m examples.two_outputs

The kind of shape in a picture is a class: the student learns the teachers' probabilities, after a burn-in.
Its size is a number: the student is pulled towards the mean of the teachers' numbers, half as strongly.
"""

import tempfile
from typing import Any

import keras

import tf_codistill
from examples import images


class ShapeReader(keras.Model):
    """Says which shape is in an image, as logits, and how large it is."""

    def __init__(self) -> None:
        super().__init__()
        self.body = keras.Sequential(
            [
                keras.layers.Rescaling(1 / 128, -1),
                *(keras.layers.Conv2D(units, 3, strides=2, activation="relu") for units in (16, 32, 64)),
                keras.layers.Flatten(),
            ]
        )
        self.kind = keras.layers.Dense(len(images.KINDS))
        self.size = keras.layers.Dense(1)

    def call(self, pixels: Any) -> dict[str, Any]:
        """Both outputs by name.

        Args:
            pixels: Images, uint8 [B, 32, 32, 3].

        Returns:
            ``kind``, logits [B, 4], and ``size``, [B, 1].
        """
        features = self.body(pixels)
        return {"kind": self.kind(features), "size": self.size(features)}


def codistilling(exchange: str, group: int) -> tf_codistill.CodistillationModel:
    """Makes what a group trains."""
    model = tf_codistill.CodistillationModel(
        ShapeReader,
        tf_codistill.PeerExchange(exchange, group, num_groups=2, every_steps=25),
        distillation_loss={
            "kind": tf_codistill.losses.SoftCrossEntropy(temperature=2.0),
            "size": tf_codistill.losses.SquaredLogits(),
        },
        distillation_weight={"kind": tf_codistill.schedules.BurnIn(steps=50, weight=1.0), "size": 0.5},
    )
    model.compile(
        keras.optimizers.Adam(0.002),
        loss={"kind": keras.losses.SparseCategoricalCrossentropy(from_logits=True), "size": "mse"},
        loss_weights={"kind": 1.0, "size": 10.0},
        metrics={"kind": ["accuracy"], "size": ["mae"]},
    )
    return model


train, test = images.draw(1600, seed=0), images.draw(400, seed=1)
with tempfile.TemporaryDirectory() as directory:
    models = [codistilling(directory, group) for group in range(2)]
    for turn in range(12):
        models[turn % 2].fit(train.images, {"kind": train.kinds, "size": train.sizes}, verbose=2)

for group, model in enumerate(models):
    targets = {"kind": test.kinds, "size": test.sizes}
    results = model.evaluate(test.images, targets, verbose=0, return_dict=True)
    print(f"group {group}: accuracy {results['kind_accuracy']:.3f}, error of size {results['size_mae']:.3f}")
