r"""Prepares a table of clicks: fits the preprocessing on its first rows and encodes all of them.

    python -m tf_codistill.prepare_clicks --gin_file=gin/tables/criteo.gin \
        --files=data/criteo/train.txt --output_dir=runs/criteo/table

Files are given in the order of time; the last rows are held out, see `TableSettings`. With --validation_files
or --test_files whole files are. A stopped run goes on; a second one changes nothing.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import files, program

_FILES = flags.DEFINE_multi_string("files", [], "Path or pattern of files with rows; may be repeated.")
_VALIDATION = flags.DEFINE_multi_string("validation_files", [], "The same, for validation.")
_TEST = flags.DEFINE_multi_string("test_files", [], "The same, for the test.")
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the table.", required=True)
_PREPROCESSING = flags.DEFINE_string(
    "preprocessing", None, "A table whose preprocessing to use; else one is fitted."
)
_RUNNER = flags.DEFINE_enum("runner", "local", ["local", "beam"], "Processes here, or Apache Beam.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "For --runner=local; else one per CPU core.")
_BEAM_OPTIONS = flags.DEFINE_multi_string("beam_options", [], "Option for --runner=beam; may be repeated.")


def main() -> None:
    """Prepares the table and says what became of its rows."""
    from tf_codistill.jobs import engines
    from tf_codistill.tables import counts, pipeline, schema, sources

    program.parse_gin()
    settings = schema.TableSettings()  # type: ignore[call-arg]  # gin has the schema
    program.check_bindings()
    is_beam, output_dir = _RUNNER.value == "beam", _OUTPUT_DIR.value
    program.require("with --runner=beam", is_beam, _BEAM_OPTIONS)
    program.require("with --runner=local", not is_beam, _NUM_PROCESSES)
    program.require_apart(_OUTPUT_DIR, _PREPROCESSING)
    if files.read_manifest(output_dir) is not None:
        print(f"table {output_dir!r} is there already", file=sys.stderr)
    engine = engines.Beam(_BEAM_OPTIONS.value) if is_beam else engines.Local(_NUM_PROCESSES.value)
    manifest = pipeline.prepare(
        sources.matching(_FILES.value),
        output_dir,
        settings,
        engine,
        validation_paths=sources.matching(_VALIDATION.value),
        test_paths=sources.matching(_TEST.value),
        preprocessing=_PREPROCESSING.value,
    )
    print(counts.summary(manifest, output_dir))


if __name__ == "__main__":
    program.run(main, *program.GIN)
