r"""Measures churn: how far apart the predictions of independently trained models are.

    python -m tf_codistill.churn runs/retrain_1 runs/retrain_2 runs/retrain_3 --output_dir=runs/churn
    python -m tf_codistill.churn old=old.parquet new=new.csv --data=examples.csv --slice=origin
    python -m tf_codistill.churn old.keras new.keras --data=features.npz

Each of two or more models is a run, a saved model, or a file of predictions (.npy, .csv, .parquet), see
docs/churn.md. Without a ``--gin_file`` the bindings of the first run are in force.
"""

from __future__ import annotations

import os

from absl import flags

from tf_codistill import files, program, terminal

_DATA = flags.DEFINE_string("data", None, "Table of the examples: id, label, columns (.csv, .parquet, .npz).")
_SLICE = flags.DEFINE_multi_string("slice", [], "Column to break figures down by; may be repeated.")
_CLUSTER = flags.DEFINE_string("cluster", None, "Column: rows of one value are resampled together.")
_THRESHOLD = flags.DEFINE_float("threshold", 0.5, "From which probability on class 1 of two is chosen.")
_FROM_LOGITS = flags.DEFINE_bool("from_logits", False, "Whether saved models given --data put out logits.")
_JSON = flags.DEFINE_string("json", None, "JSON file for all figures.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for a page with pictures.")
_SAVE_DIR = flags.DEFINE_string("save_dir", None, "Directory in which to keep each model's predictions.")


def main(*arguments: str) -> None:
    """Compares everything that was named."""
    from tf_codistill.reproducibility import page, prediction_files, questions, sources

    found = sources.parse(arguments)
    if _OUTPUT_DIR.value:
        files.make_directory(_OUTPUT_DIR.value)  # before a comparison that would be lost
    if _JSON.value:
        files.make_directory(os.path.dirname(_JSON.value) or ".")
    question = questions.Question(
        table=prediction_files.read_table(_DATA.value) if _DATA.value else None,
        slices=_SLICE.value,
        cluster=_CLUSTER.value,
        threshold=_THRESHOLD.value,
        from_logits=_FROM_LOGITS.value,
        save_dir=_SAVE_DIR.value,
    )
    if all(source.has_predictions for source in found):
        comparison = questions.answer(found, question)
    else:
        from tf_codistill import experiment, model_comparison

        config = next((source.config_path for source in found if source.config_path), None)
        program.parse_gin(instead=files.read(config).decode("utf-8") if config else "")
        task = experiment.configured().task if config or program.GIN_FILE.value else None
        comparison = model_comparison.compare(found, task, question)
    if _JSON.value:
        files.write_json(_JSON.value, comparison.to_json())
    terminal.console().print(page.as_table(comparison), page.notes(comparison), sep="\n")
    if _OUTPUT_DIR.value:
        print(f"page: {page.write_page(comparison, _OUTPUT_DIR.value)}")


if __name__ == "__main__":
    program.run(main, *program.GIN, takes_arguments=True)
