r"""Exports a trained model as a SavedModel that takes raw input and gives probabilities.

    python -m tf_codistill.export --workdir=runs/one --output_dir=served/1

    served = tf.saved_model.load("served/1")        no tf_codistill needed
    served.serve(raw)["probabilities"]

What raw input is, the task says: JPEG files, rows of a table, ids of word pieces. What turns it into features
is exported with the model.
"""

from __future__ import annotations

from absl import flags, logging

from tf_codistill import files, program, runs

_GROUP = flags.DEFINE_integer("group", 0, "Which group's model.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the SavedModel.", required=True)


def main() -> None:
    """Exports the model of one group."""
    import keras
    import tensorflow as tf

    from tf_codistill import experiment

    directory = runs.group_dir(program.WORKDIR.value, _GROUP.value)
    path = runs.student_path(program.WORKDIR.value, _GROUP.value)
    if not files.exists(path):
        raise ValueError(f"there is no model {path!r}; let its run end, or name another --workdir or --group")
    if files.names(_OUTPUT_DIR.value):
        raise ValueError(f"--output_dir={_OUTPUT_DIR.value!r} is not empty; name a new directory")
    program.parse_gin(instead=runs.bindings(program.WORKDIR.value, _GROUP.value))
    task = experiment.configured().task
    module = task.serving(keras.saving.load_model(path, compile=False), directory)
    without_gradients = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(module, _OUTPUT_DIR.value, module.serve, without_gradients)
    logging.info("exported %s to %s", path, _OUTPUT_DIR.value)


if __name__ == "__main__":
    program.run(main, *program.GIN, program.WORKDIR)
