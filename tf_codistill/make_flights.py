"""Writes the table of flights of 2013 from New York: which ones arrived more than 15 minutes late?

    pip install tf_codistill[flights]
    python -m tf_codistill.make_flights --output_dir=runs/flights/table

        runs/flights/table/flights.parquet                   sorted by time, for `prepare_clicks`

data/flights/README.md says where the rows come from and what is left out.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import program

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for the table.", required=True)


def main() -> None:
    """Writes the table and says what it holds."""
    from tf_codistill.example_tables import flights, writing

    writing.say_if_there(_OUTPUT_DIR.value)
    print(flights.summary(flights.write(_OUTPUT_DIR.value), _OUTPUT_DIR.value))


if __name__ == "__main__":
    program.run(main)
