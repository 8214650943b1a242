"""What the package takes of Keras that Keras does not promise; nobody else spells its private names.

    keras_private.mask(logits)                   the mask that travels with a tensor
    keras_private.layers(model)                  all layers, those inside of others, too
    keras_private.losses(compile_loss)           what was given to `compile`, by output
    PRIVATE                                      each name, whose it is, and what for

That each is there and does what is said here is tested; ``make test-newest-keras`` tries another release.
Two methods of these names are overridden where they belong, see `OVERRIDDEN`. Nothing is imported here:
`check_backend` is also for before Keras is.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple


class Private(NamedTuple):
    """A name that Keras or TensorFlow may change without a word.

    Attributes:
        owner: Whose it is, by its public name where it has one.
        name: The name.
        why: What for, and why nothing public will do.
    """

    owner: str
    name: str
    why: str


PRIVATE = (
    Private(
        "tf.Tensor", "_keras_mask", "masks travel as an attribute that only Keras's losses and layers read"
    ),
    Private("keras.Variable", "_value", "the tf.Variable behind it, which has the copy of each replica"),
    Private("keras.Variable", "_initializer", "read in place of a value that is not there, each time anew"),
    Private(
        "keras.Model", "_distribute_strategy", "`fit` cannot distribute data under ParameterServerStrategy"
    ),
    Private("keras.Variable", "_direct_assign", "all that changes a value goes through it"),
    Private("keras.Layer", "_flatten_layers", "`Model.layers` has only the outermost"),
    Private("keras.layers.BatchNormalization", "_moments", "by mask and by replicas as the layer takes them"),
    Private("keras.Model", "_compile_loss", "`compute_loss` has no place for a replica's share of the batch"),
    Private(
        "keras.Model", "_loss_tracker", "the meter named ``loss``; `metrics` may hold another of that name"
    ),
    Private(
        "keras.Model", "_aggregate_additional_loss", "its scale of what `add_loss` was given, by replicas"
    ),
    Private("keras.Model", "_symbolic_build", "builds loss, metrics and optimizer without a batch"),
    Private(
        "keras.Model",
        "_maybe_symbolic_build",
        "where `fit` and `evaluate` build, wrongly for several workers",
    ),
    Private("keras.optimizers.Optimizer", "_clip_gradients", "clips as `apply` does, before replicas add up"),
    Private(
        "keras.optimizers.Optimizer",
        "_model_variables_moving_average",
        "the averages of weights by which it replaces them at the end of `fit`",
    ),
    Private("keras.optimizers.Optimizer", "_trainable_variables", "whose averages these are"),
    Private(
        "keras.optimizers.Adagrad", "_accumulators", "its sums of squares, to update single rows of them"
    ),
    Private(
        "keras.optimizers.Optimizer",
        "_get_variable_index",
        "which of the optimizer's own variables is for one that it updates, or for its copy on a replica",
    ),
    Private(
        "keras.src.trainers.compile_utils.CompileLoss", "_flat_losses", "losses with the paths of outputs"
    ),
    Private(
        "keras.losses.SparseCategoricalCrossentropy", "_fn_kwargs", "the axis, which no configuration has"
    ),
    Private(
        "keras.src.backend.tensorflow.trainer.TFEpochIterator",
        "_distributed_dataset",
        "what `fit` is about to read, for its specification",
    ),
    Private("keras.Model", "_eval_epoch_iterator", "goes on where it was, so that validations would differ"),
    Private(
        "tensorflow.python.distribute.values.PerReplicaSpec",
        "_value_specs",
        "the specification on each replica, which a public method would not tell from that of a composite",
    ),
    Private(
        "tensorflow.python.data.ops.multi_device_iterator_ops",
        "_create_device_dataset",
        "what carries batches to a device; it takes no options from the data set that it reads",
    ),
)

OVERRIDDEN = {
    "_maybe_symbolic_build": "training.keras_fit",
    "_direct_assign": "teaching.quantized_model",
}
"""Which of these names a class of ours defines anew, by module."""


def check_backend() -> None:
    """Checks that Keras computes with TensorFlow, or is going to.

    Raises:
        ValueError: It has, or is going to have, another backend.
    """
    backend = getattr(sys.modules.get("keras"), "backend", None)
    name = os.environ.get("KERAS_BACKEND") or "tensorflow" if backend is None else backend.backend()
    if name != "tensorflow":
        raise ValueError(
            f"the backend of Keras is {name!r}, and tf_codistill trains with TensorFlow; set "
            "KERAS_BACKEND=tensorflow before Keras is imported"
        )


def mask(tensor: Any) -> Any:
    """The mask that Keras made travel with a tensor, or None."""
    return getattr(tensor, "_keras_mask", None)


def set_mask(tensor: Any, value: Any) -> Any:
    """Makes a mask travel with a tensor.

    Args:
        tensor: A tensor that nobody else holds, as its mask would change for them, too.
        value: The mask, or None.

    Returns:
        The tensor.
    """
    tensor._keras_mask = value
    return tensor


def moments(layer: Any, inputs: Any, mask: Any) -> Any:
    """Means and variances by which a batch normalization would normalise when training.

    Args:
        layer: The layer.
        inputs: What it is given, [B, ..., C].
        mask: Which positions count, or None.

    Returns:
        Means and variances, [C] each.
    """
    return layer._moments(inputs, mask)


def stored(variable: Any) -> Any:
    """The ``tf.Variable`` behind a Keras variable, or what a strategy has made of it."""
    return variable._value


def read_by(variable: Any, read: Callable[[Any, Any], Any]) -> None:
    """Makes a variable give up its value, and tell another one whenever it is read.

    Args:
        variable: A Keras variable.
        read: Is called with shape and type; returns the value. To Keras it is an initializer, and the
            variable not initialised yet.
    """
    variable._value, variable._initializer = None, read


def bring_home(variables: Iterable[Any]) -> None:
    """Moves Keras variables from other processes to this one, outside of any strategy, with their values."""
    import tensorflow as tf

    for variable in variables:
        stored = variable._value
        variable._value = tf.Variable(stored.numpy(), trainable=False, name=variable.name)


def leave_strategy(model: Any) -> None:
    """Lets `fit` and `evaluate` take a model that was made in a strategy's scope for one of this process."""
    model._distribute_strategy = None


def layers(model: Any) -> Iterable[Any]:
    """All layers of a model, those inside of others, too, without the model itself."""
    return model._flatten_layers(include_self=False)


def compile_loss(model: Any) -> Any:
    """What Keras made of the losses given to `compile`; None if none were given."""
    return model._compile_loss


def losses(compile_loss: Any) -> dict[str, Any]:
    """The losses given to `compile`, by the name of their output.

    Args:
        compile_loss: What the function of this name returned.

    Returns:
        Keras losses; none before they are built.
    """
    every = getattr(compile_loss, "_flat_losses", None) or []
    return {"/".join(map(str, path)): loss for path, loss, _, _ in every}


def arguments(loss: Any) -> dict[str, Any]:
    """With what a loss calls the function that it was made of."""
    return loss._fn_kwargs


def loss_tracker(model: Any) -> Any:
    """The metric called ``loss``."""
    return model._loss_tracker


def added_loss(model: Any, loss: Any) -> Any:
    """One of ``model.losses`` as this replica's part of the total loss."""
    return model._aggregate_additional_loss(loss)


def build(model: Any, data: tuple[Any, ...]) -> None:
    """Builds a compiled model with its loss, metrics and optimizer.

    Args:
        model: The model.
        data: Specifications of features, targets and sample weights.
    """
    model._symbolic_build(data_batch=data)


def clip(optimizer: Any, gradients: Sequence[Any]) -> list[Any]:
    """Gradients clipped as the optimizer is told to."""
    return optimizer._clip_gradients(list(gradients))


def accumulator(adagrad: Any, variable: Any) -> Any:
    """The sum of squared gradients that Adagrad keeps of a variable.

    Args:
        adagrad: The optimizer.
        variable: What it is given to update: a variable, or the copy of a replica.

    Returns:
        A Keras variable.
    """
    return adagrad._accumulators[index(adagrad, variable)]


def averages(optimizer: Any) -> list[tuple[Any, Any]]:
    """Each trainable weight with its moving average; none unless the optimizer makes some."""
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # of one that scales the loss
    if not optimizer.use_ema:
        return []
    return list(zip(optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True))


def index(optimizer: Any, variable: Any) -> int:
    """Which of the variables that an optimizer was built for one is, or is a replica's copy of."""
    return optimizer._get_variable_index(variable)


def dataset(epoch_iterator: Any) -> Any:
    """What `fit` and `evaluate` read."""
    return epoch_iterator._distributed_dataset


def element_spec(epoch_iterator: Any) -> Any:
    """The specification of what `fit` and `evaluate` read."""
    return dataset(epoch_iterator).element_spec


def restart_validation(model: Any) -> None:
    """Lets the next validation of a `fit` read its data from the beginning, as Keras's documents promise."""
    iterator = getattr(model, "_eval_epoch_iterator", None)
    if iterator is not None:
        iterator.reset()


def specs_by_replica(spec: Any) -> Sequence[Any]:
    """The specification on each local replica of what is distributed; empty for anything else."""
    return getattr(spec, "_value_specs", ())


@contextlib.contextmanager
def untuned_devices() -> Iterator[None]:
    """Lets TensorFlow not tune what carries batches to the devices, where there is nothing to be tuned.

    The thread that tunes may miss that its iterator ends and sleep on, for up to a minute, and the end of
    `fit` waits for it. Iterators that are made within this context have none of their own.
    """
    import tensorflow as tf

    place: Any = importlib.import_module("tensorflow.python.data.ops.multi_device_iterator_ops")
    create = place._create_device_dataset
    options = tf.data.Options()
    options.autotune.enabled = False
    place._create_device_dataset = lambda *args: create(*args).with_options(options)
    try:
        yield
    finally:
        place._create_device_dataset = create
