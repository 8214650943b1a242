r"""Prepares images for training: class folders or an archive to record files with a manifest.

    python -m tf_codistill.prepare_images --source=photos.zip --output_dir=photos
    python -m tf_codistill.prepare_images --source=ILSVRC2012_img_train.tar \
        --validation_source=ILSVRC2012_img_val.tar --validation_labels=validation_synsets.txt \
        --output_dir=imagenet

The source is a folder, a zip file or a tar, compressed or not, with <class>/<name>.jpg in it, perhaps below
train/, validation/ and test/; without these, a share is held out. A stopped run goes on; a second one changes
nothing.
"""

from __future__ import annotations

import sys

from absl import flags

from tf_codistill import files, program

_SOURCE = flags.DEFINE_string("source", None, "Folder, zip file or tar with the images.", required=True)
_VALIDATION = flags.DEFINE_string("validation_source", None, "The same for those that are held out.")
_LABELS = flags.DEFINE_string(
    "validation_labels", None, "File with the class of each image of --validation_source, in order of names."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", None, "Directory of the records.", required=True)
_QUARANTINE = flags.DEFINE_string("quarantine_dir", None, "Directory to keep what cannot be decoded in.")
_RUNNER = flags.DEFINE_enum("runner", "local", ["local", "beam"], "Processes here, or Apache Beam.")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "For --runner=local; else one per CPU core.")
_BEAM_OPTIONS = flags.DEFINE_multi_string("beam_options", [], "Option for --runner=beam; may be repeated.")


def main() -> None:
    """Prepares the images and says what became of them."""
    from tf_codistill.image_preparation import pipeline, plan, settings
    from tf_codistill.jobs import engines

    program.parse_gin()
    image_settings = settings.ImageSettings()
    program.check_bindings()
    is_beam = _RUNNER.value == "beam"
    program.require("with --runner=beam", is_beam, _BEAM_OPTIONS)
    program.require("with --runner=local", not is_beam, _NUM_PROCESSES)
    program.require("with --validation_source", _VALIDATION.value is not None, _LABELS)
    program.require_apart(_OUTPUT_DIR, _SOURCE, _VALIDATION, _QUARANTINE)
    sources = plan.Sources(_SOURCE.value, _VALIDATION.value, _LABELS.value)
    if files.read_manifest(_OUTPUT_DIR.value) is not None:
        print(f"images {_OUTPUT_DIR.value!r} are prepared already", file=sys.stderr)
    engine = engines.Beam(_BEAM_OPTIONS.value) if is_beam else engines.Local(_NUM_PROCESSES.value)
    manifest = pipeline.prepare(sources, _OUTPUT_DIR.value, image_settings, engine, _QUARANTINE.value)
    print(pipeline.summary(manifest, _OUTPUT_DIR.value))


if __name__ == "__main__":
    program.run(main, *program.GIN)
