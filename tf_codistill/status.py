r"""Shows how far the groups of a run are, and how they fare; reads its files and changes nothing.

    python -m tf_codistill.status --workdir=runs/two                  until Ctrl-C; once if no terminal
    python -m tf_codistill.status --workdir=runs/two --json           one JSON object, see docs/status.md
    python -m tf_codistill.status --workdir=runs/two --html=two.html  one page, as it is now
    python -m tf_codistill.status --workdir=runs/two --serve=8000     the page at http://127.0.0.1:8000/

The run may be training, on other machines too, or have ended.
"""

from __future__ import annotations

import json
import time

from absl import flags
from rich.console import Console

from tf_codistill import files, program, runs
from tf_codistill.health import overview, table

_JSON = flags.DEFINE_bool("json", False, "Whether to print one JSON object in place of tables.")
_HTML = flags.DEFINE_string("html", None, "File for a page that shows the run as it is now.")
_SERVE = flags.DEFINE_integer("serve", None, "Port at which to serve the page; 0 for a free one.", 0, 65535)
_HOST = flags.DEFINE_string("host", "127.0.0.1", "With --serve: address to bind to. There is no password.")
_SILENT_SECS = flags.DEFINE_float(
    "silent_secs", overview.SILENT_SECS, "Seconds without metrics or snapshot until a group is silent.", 0.0
)


def main() -> None:
    """Reads the run and shows it in the way that was asked for."""
    workdir, exchange_dir = program.WORKDIR.value, program.EXCHANGE_DIR.value
    if not workdir:
        raise ValueError("--workdir is not set; name the directory of a run")
    files.check_scheme(workdir, exchange_dir)
    if not files.is_directory(workdir):
        raise ValueError(f"--workdir is {workdir!r}, which is no directory; name that of a run")
    asked = [f"--{flag.name}" for flag in (_JSON, _HTML, _SERVE) if flag.present]
    if len(asked) > 1:
        raise ValueError(f"{' and '.join(asked)} are given; one of them at a time")
    program.require("with --serve", _SERVE.value is not None, _HOST)
    place = (workdir, exchange_dir or runs.exchange_dir(workdir))

    def read() -> overview.Overview:
        return overview.read(*place, silent_secs=_SILENT_SECS.value, now=time.time())

    if _JSON.value:
        print(json.dumps(overview.figures(read()), indent=1, allow_nan=False))
    elif _HTML.value:
        from tf_codistill.health import page

        files.write(_HTML.value, page.page(read()).encode("utf-8", "replace"))
    elif _SERVE.value is not None:
        from tf_codistill.health import server

        with server.Server(read, _HOST.value, _SERVE.value) as serving:
            print(f"{workdir}: {serving.url} until Ctrl-C", flush=True)
            serving.serve_forever()
    else:
        table.show(read, Console(highlight=False), table.is_slow(*place))


if __name__ == "__main__":
    program.run(main, program.WORKDIR, program.EXCHANGE_DIR)
