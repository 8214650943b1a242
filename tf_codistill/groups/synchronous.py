"""A group of workers that take every step together: distributed SGD under one `tf.distribute` strategy.

    group = SynchronousGroup(strategy)
    with group.scope(): model = ...
    group.fit(model, streams, validation, first_epoch=10, ...)      `fit`, an epoch for each log interval

Each worker makes its own part of every batch. A TPU slice has one worker, which makes the part of each host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import keras
import tensorflow as tf

from tf_codistill import distribution
from tf_codistill.batches import Stream, interleave
from tf_codistill.teaching.base import Teaching


class SynchronousGroup:
    """The workers of one group, seen from one of them.

    Attributes:
        strategy: What they train with.
    """

    def __init__(self, strategy: tf.distribute.Strategy | None = None) -> None:
        """Takes note of the group's strategy; the default strategy if not given."""
        self.strategy = strategy or tf.distribute.get_strategy()

    @property
    def is_chief(self) -> bool:
        """Whether this worker writes what the group shares."""
        return distribution.is_chief(self.strategy)

    def scope(self) -> contextlib.AbstractContextManager[Any]:
        """In which models are made."""
        return self.strategy.scope()

    def rows(self, batch_size: int) -> int | None:
        """How many examples of a batch each replica gets.

        Args:
            batch_size: Examples of the whole group.

        Returns:
            Their number; None, in another kind of group, if models are to take any and carry no state.

        Raises:
            ValueError: They cannot be shared out evenly.
        """
        replicas = self.strategy.num_replicas_in_sync
        if batch_size % replicas:
            raise ValueError(
                f"the batch size is {batch_size} examples or lanes; expected a multiple of the {replicas} "
                "replicas"
            )
        return batch_size // replicas

    def feed(self, streams: Sequence[Stream], first_step: int = 0, teachers: Teaching | None = None) -> Any:
        """Streams side by side as what `fit` reads.

        Args:
            streams: One, or one for each student that reads apart.
            first_step: Step of the first batch.
            teachers: Who may want to know more of each batch; nobody in validation.

        Returns:
            A distributed dataset of this worker's parts; of a TPU slice those of all hosts, each by an input
            pipeline of its own.
        """

        def part(context: tf.distribute.InputContext) -> tf.data.Dataset:
            turns = context.num_replicas_in_sync // context.num_input_pipelines
            datasets = [
                stream.dataset(
                    first_step=first_step,
                    worker=context.input_pipeline_id,
                    num_workers=context.num_input_pipelines,
                    num_replicas=turns,
                )
                for stream in streams
            ]
            dataset = datasets[0]
            if len(datasets) > 1:
                dataset = tf.data.Dataset.zip(tuple(datasets)).map(lambda *batches: interleave(batches))
            return dataset if teachers is None else teachers.feed(dataset, turns)

        return self.strategy.distribute_datasets_from_function(part)

    def fit(
        self,
        model: Any,
        training: Sequence[Stream],
        validation: Stream,
        *,
        first_epoch: int,
        num_steps: int,
        log_every_steps: int,
        validate_every_steps: int,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        """Trains a model; an epoch is one log interval, so that Keras's averages are those of the interval.

        Args:
            model: The compiled `CodistillationModel`.
            training: What it learns from.
            validation: What is held out.
            first_epoch: Epochs done already.
            num_steps: Steps to be done in the end.
            log_every_steps: Steps of an interval.
            validate_every_steps: Steps between two validations.
            callbacks: Called around steps and intervals.
        """
        model.fit(
            self.feed(training, first_epoch * log_every_steps, model.teachers),
            initial_epoch=first_epoch,
            epochs=num_steps // log_every_steps,
            steps_per_epoch=log_every_steps,
            validation_data=self.feed([validation]),
            validation_steps=validation.steps_per_epoch,
            validation_freq=validate_every_steps // log_every_steps,
            callbacks=list(callbacks),
            shuffle=False,
            verbose=0,
        )
