"""Two groups codistil an image classifier in two processes, each on images of its own.

    python -m examples.two_terminals --group=0          in one terminal
    python -m examples.two_terminals --group=1          in another, at any time

They share nothing but a directory. Neither waits for the other: one that runs alone trains alone until its
peer has published a snapshot. Delete the directory to begin anew.
"""

import argparse

import keras

import tf_codistill
from examples import images

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--group", type=int, choices=(0, 1), required=True)
parser.add_argument("--exchange", default="runs/two_terminals", help="directory that both groups see")
parser.add_argument("--epochs", type=int, default=20)
flags = parser.parse_args()

train_images, train_labels, num_classes = images.load(seed=0)
test_images, test_labels, _ = images.load(seed=1)
mine = slice(flags.group, None, 2)  # the main paper's section 3.3.2: groups learn most from other data


def classifier() -> keras.Model:
    """Makes the student and each teacher; its outputs are logits."""
    layers = keras.layers
    convolutions = [layers.Conv2D(units, 3, strides=2, activation="relu") for units in (16, 32, 64)]
    rescaled = [keras.Input(train_images.shape[1:]), layers.Rescaling(1 / 128, -1)]
    return keras.Sequential([*rescaled, *convolutions, layers.Flatten(), layers.Dense(num_classes)])


peers = tf_codistill.PeerExchange(flags.exchange, flags.group, num_groups=2, every_steps=10)
weight = tf_codistill.schedules.BurnIn(steps=50, weight=1.0)
model = tf_codistill.CodistillationModel(classifier, peers, distillation_weight=weight)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
model.compile(keras.optimizers.Adam(0.002), loss, metrics=["accuracy"])
validation_data = (test_images, test_labels)
model.fit(
    train_images[mine], train_labels[mine], epochs=flags.epochs, validation_data=validation_data, verbose=2
)
model.student.save(f"{flags.exchange}/student_{flags.group}.keras")
print(f"group {flags.group}: {peers.costs.read_bytes:,} bytes read from its peer")
