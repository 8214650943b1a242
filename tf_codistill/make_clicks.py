"""Makes rows in the Criteo layout from a known function, so that the best possible log loss is known.

    python -m tf_codistill.make_clicks --num_rows=200000 --output_dir=runs/clicks/rows

        runs/clicks/rows/clicks-00000-of-00010.txt ...       for `prepare_clicks`

Settings of the function are gin's: --gin_bindings="SyntheticClicks.signal = 1.0". A second run finds what is
there and changes nothing.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import program

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for the files.", required=True)
_NUM_ROWS = flags.DEFINE_integer("num_rows", None, "Rows in all files together.", required=True)
_NUM_FILES = flags.DEFINE_integer(
    "num_files", 10, "Files, each with an equal part of the rows.", lower_bound=1
)
_COMPRESSED = flags.DEFINE_bool("compressed", False, "Whether to write gzip files.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "Processes; else one per CPU core.")


def main() -> None:
    """Writes the rows and says what is known of them."""
    from tf_codistill.example_tables import synthetic_clicks, writing
    from tf_codistill.jobs import engines

    program.parse_gin()
    clicks = synthetic_clicks.SyntheticClicks()
    program.check_bindings()
    engine = engines.Local(_NUM_PROCESSES.value)
    writing.say_if_there(_OUTPUT_DIR.value)
    manifest = writing.write(
        _OUTPUT_DIR.value, _NUM_ROWS.value, clicks, engine, _NUM_FILES.value, _COMPRESSED.value
    )
    print(writing.summary(manifest, _OUTPUT_DIR.value))


if __name__ == "__main__":
    program.run(main, *program.GIN)
