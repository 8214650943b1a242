"""MobileNetV2 on your own JPEGs: two groups of two workers each, on this machine.

    python -m examples.image_folder --images=photos --workdir=runs/images        folder or zip file

                   +-- group 0: worker 0, worker 1    a step's images are split over the workers of a group
    this script ---+          | snapshots |
                   +-- group 1: worker 0, worker 1    each group reads them in an order of its own

The script starts itself four times, each time with ``--group`` and a TF_CONFIG; on several machines do so
yourself. Curves are in <workdir>/group_*/tensorboard.

The defaults suit a few thousand images and two cores: 1800 photographs of ten classes, brought from 32 to 64
pixels, in less than four minutes; then more than a third of 192 others are recognised. The network halves the
image five times, so that one of 32 pixels ends as a single position. With more images take more steps.
"""

import argparse
import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

import tf_codistill
from examples import images
from tf_codistill import distribution, runs
from tf_codistill.launching import local
from tf_codistill.training.metrics_log import MetricsLog

NUM_GROUPS, WORKERS_PER_GROUP = 2, 2


def parsed_flags() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", required=True, help="folder or zip file with <class>/<name>.jpg")
    parser.add_argument("--workdir", required=True, help="what becomes of the run")
    parser.add_argument("--group", type=int, help="train this group; without it all are started")
    parser.add_argument("--num_steps", type=int, default=400)
    parser.add_argument("--log_every_steps", type=int, default=50)
    parser.add_argument("--batch_size", type=int, default=64, help="images in a step of a group")
    parser.add_argument("--image_size", type=int, default=64, help="height and width, at least 32")
    parser.add_argument("--alpha", type=float, default=0.35, help="width of the network")
    parser.add_argument("--learning_rate", type=float, default=0.003, help="at first; it falls to 0")
    return parser.parse_args()


def feed(
    strategy: tf.distribute.Strategy,
    pixels: np.ndarray,
    labels: np.ndarray,
    batch_size: int,
    seed: int | None,
) -> Any:
    """Batches for `fit`; each worker makes its part of each of them.

    Args:
        strategy: The group's strategy.
        pixels: Images, uint8 [N, H, W, 3].
        labels: Classes, int32 [N].
        batch_size: Images of all workers together.
        seed: Order of the images, which then are repeated for ever; None for one pass as they are.

    Returns:
        A distributed dataset.
    """

    def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
        data = tf.data.Dataset.from_tensor_slices((pixels, labels))
        if seed is not None:
            data = data.shuffle(len(pixels), seed).repeat()
        data = data.shard(context.num_input_pipelines, context.input_pipeline_id)
        return data.batch(context.get_per_replica_batch_size(batch_size), drop_remainder=True)

    return strategy.distribute_datasets_from_function(part)


def mobile_net(image_size: int, alpha: float, num_classes: int) -> Callable[[], keras.Model]:
    """Makes what makes the student and each teacher; `weights=None` downloads nothing."""

    def model_fn() -> keras.Model:
        pixels = keras.Input((image_size, image_size, 3))
        network = keras.applications.MobileNetV2(
            (image_size, image_size, 3), alpha, weights=None, classes=num_classes, classifier_activation=None
        )
        for layer in network.layers:
            if isinstance(layer, keras.layers.BatchNormalization):
                # With Keras's 0.999 hundreds of steps leave the averages, which validation uses, far behind.
                layer.momentum = 0.9
        features = keras.layers.Rescaling(1 / 127.5, -1)(keras.layers.RandomFlip("horizontal")(pixels))
        return keras.Model(pixels, network(features))

    return model_fn


def train(flags: argparse.Namespace) -> None:
    """Trains one worker of one group.

    Args:
        flags: What `parsed_flags` returned, with a group.
    """
    strategy = distribution.create_strategy()  # from TF_CONFIG, before anything else
    pixels, labels, classes = images.read(flags.images, flags.image_size)
    num_validation = len(pixels) // 10
    validation = feed(strategy, pixels[:num_validation], labels[:num_validation], flags.batch_size, None)
    training = feed(strategy, pixels[num_validation:], labels[num_validation:], flags.batch_size, flags.group)
    keras.utils.set_random_seed(flags.group)
    exchange = runs.exchange_dir(flags.workdir)
    with strategy.scope():
        model = tf_codistill.CodistillationModel(
            mobile_net(flags.image_size, flags.alpha, len(classes)),
            tf_codistill.PeerExchange(exchange, flags.group, NUM_GROUPS, flags.log_every_steps),
            distillation_weight=tf_codistill.schedules.BurnIn(steps=flags.num_steps // 5),
        )
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        learning_rate = keras.optimizers.schedules.CosineDecay(flags.learning_rate, flags.num_steps)
        model.compile(keras.optimizers.Adam(learning_rate), loss, metrics=["accuracy"])
    log = MetricsLog(flags.workdir, flags.group, flags.num_steps, flags.batch_size, units="images")
    model.fit(
        training,
        epochs=flags.num_steps // flags.log_every_steps,
        steps_per_epoch=flags.log_every_steps,
        validation_data=validation,
        callbacks=[log] if distribution.is_chief(strategy) else [],
        shuffle=False,
        verbose=0,
    )
    if distribution.is_chief(strategy):
        model.student.save(runs.student_path(flags.workdir, flags.group))


def main() -> None:
    """Starts all workers, or is one of them."""
    flags = parsed_flags()
    if flags.group is not None:
        train(flags)
        return
    local.launch(
        flags.workdir,
        num_groups=NUM_GROUPS,
        workers_per_group=WORKERS_PER_GROUP,
        command=lambda group: [
            sys.executable,
            "-m",
            "examples.image_folder",
            *sys.argv[1:],
            f"--group={group}",
        ],
        num_steps=flags.num_steps,
    )


if __name__ == "__main__":
    main()
