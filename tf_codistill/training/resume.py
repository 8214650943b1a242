"""What a checkpoint holds of a model in training, and how it gets there and back.

    shared    weights, seeds    of each student, in order       teachers         of the teaching
              optimizer
    own       lanes             recurrent states of this worker's lanes, student by student
              teacher_lanes     of the teaching, which reads the same lanes

Training goes on as if it had never stopped: batches are a function of the step, and everything else is here.
"""

from __future__ import annotations

import keras
from absl import logging

from tf_codistill import checkpoints, recurrent_state, weights
from tf_codistill.training.codistillation import CodistillationModel


class Resume:
    """Saves a model that has been built for its data, and restores it."""

    def __init__(self, model: CodistillationModel, saved: checkpoints.Checkpoints) -> None:
        """Takes note of the variables; touches no file.

        Args:
            model: The model; `build_for_data` has been called.
            saved: Where its checkpoints are.
        """
        self._model = model
        self._saved = saved
        self._shared = {
            "weights": [weight for student in model.students for weight in student.weights],
            "seeds": [seed for student in model.students for seed in _seeds(student)],
            "optimizer": model.optimizer.variables,
        }
        self._lanes = [lane for student in model.students for lane in recurrent_state.variables(student)]

    def save(self) -> None:
        """Writes a checkpoint of the step that has been reached; all workers of the group must call it."""
        shared = {name: weights.values(variables) for name, variables in self._shared.items()}
        shared["teachers"], teacher_lanes = self._model.teachers.state()
        own = {"lanes": recurrent_state.values(self._lanes), "teacher_lanes": teacher_lanes}
        self._saved.save(self._model.step(), shared, own)

    def restore(self) -> None:
        """Reads the newest checkpoint, if there is one; all workers of the group must call it.

        Raises:
            ValueError: It holds another model, or is damaged.
        """
        step = self._saved.latest()
        if step is None:
            return
        shared, own = self._saved.restore(step)
        try:
            self._model.teachers.restore(shared.pop("teachers"), own["teacher_lanes"])
            for name, arrays in shared.items():
                weights.assign(self._shared[name], arrays)
            recurrent_state.assign(self._lanes, own["lanes"])
        except ValueError as error:
            raise ValueError(
                f"the checkpoint of step {step} holds another model or other groups: {error}; "
                "use the settings that it was made with, or another workdir"
            ) from error
        logging.info("resumed from step %d", step)


def _seeds(student: keras.Model) -> list[keras.Variable]:
    """Variables that are no weights: the states of random number generators."""
    known = {id(weight) for weight in student.weights}
    return [variable for variable in student.variables if id(variable) not in known]
