"""Writes an archive of real images that come with scikit-learn: 1,797 handwritten digits.

pip install tf_codistill[digits]
python -m tf_codistill.make_digits --output_dir=runs/digits/source

runs/digits/source/digits.zip                        for `prepare_images`
"""

from __future__ import annotations

from absl import flags

from tf_codistill import program

_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory for the archive.", required=True)


def main() -> None:
    """Writes the archive and says what it holds."""
    from tf_codistill.example_tables import digits, writing

    writing.say_if_there(_OUTPUT_DIR.value)
    print(digits.summary(digits.write(_OUTPUT_DIR.value), _OUTPUT_DIR.value))


if __name__ == "__main__":
    program.run(main)
