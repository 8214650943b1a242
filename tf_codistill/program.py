"""What every program shares: flags, gin files, logging, and errors in one sentence.

    from tf_codistill import program

    def main() -> None:
        from tf_codistill import experiment    # here, so that --help does not wait for TensorFlow

        program.parse_gin()          # --gin_file, --gin_bindings
        ...                          # one call into the library; before its expensive part:
        program.check_bindings()     # every name that was bound has been used

    if __name__ == "__main__":
        program.run(main, program.WORKDIR, *program.GIN)    # the flags of this module that it has

A gin file is named from the directory that holds ``gin/``, always as ``gin/...``. It is looked up below the
working directory, beside the package in a checkout, and among the files of the installed package.
"""

from __future__ import annotations

import collections
import logging as python_logging
import os
import re
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import gin
from absl import app, flags, logging

from tf_codistill import bindings, files, keras_private, quiet_start

GIN_FILE = flags.DEFINE_multi_string(
    "gin_file", [], "Gin file, named as gin/...; may be repeated, later files override earlier ones."
)
GIN_BINDINGS = flags.DEFINE_multi_string(
    "gin_bindings",
    [],
    "Gin binding such as 'Experiment.num_steps = 500'; may be repeated, overrides every gin file.",
)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run: checkpoints, snapshots, metrics, logs.")
EXCHANGE_DIR = flags.DEFINE_string(
    "exchange_dir", None, "Directory through which groups exchange snapshots; <workdir>/exchange by default."
)
_MAX_WORKERS = flags.DEFINE_integer(
    "max_workers", None, "Workers of all runs at a time; as many as there are cores for by default.", 1
)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of each worker; what is computed may depend on it.", 1)
_MAX_MEMORY = flags.DEFINE_float("max_memory_gib", None, "What all runs may take together, in GiB.")
GIN = (GIN_FILE, GIN_BINDINGS)
MATRIX = (_MAX_WORKERS, _THREADS, _MAX_MEMORY)

# gin says it in its own words where an argument may also be positional.
_NOT_BOUND = re.compile(
    r"\n  No values supplied by Gin|missing \d+ required keyword-only .*\n  In call to configurable"
)
_PACKAGE_DIR = os.path.dirname(os.path.abspath(__file__))
GIN_SEARCH_PATH = (os.getcwd(), os.path.dirname(_PACKAGE_DIR), os.path.join(_PACKAGE_DIR, "_files"))


def run(main: Callable[..., None], *shared: flags.FlagHolder[Any], takes_arguments: bool = False) -> None:
    """Runs a program: parses its flags, calls `main`, and tells a user's mistake in one sentence.

    The exit status is 0 when all went well, 1 for a mistake of the user (the sentence is on standard error;
    ``--verbosity=1`` adds the traceback) unless the error has an ``exit_status``, 130 after Ctrl-C.

    Args:
        main: The program.
        *shared: Its flags of this module: `WORKDIR`, `EXCHANGE_DIR`, those in `GIN` and `MATRIX`. ``--help``
            shows them among its own; others of this module it does not have.
        takes_arguments: Whether it is called with what the command line has besides flags, as strings.
    """

    def guarded(argv: list[str]) -> None:
        arguments = argv[1:] if takes_arguments else []
        if len(argv) > 1 and not takes_arguments:
            _stop(f"argument {argv[1]!r} was not expected; values are given as --flag=value, see --help")
        try:
            keras_private.check_backend()
            main(*arguments)
        except KeyboardInterrupt:
            sys.exit(130)
        except (ValueError, OSError, TypeError) as error:
            if isinstance(error, TypeError) and not _NOT_BOUND.search(str(error)):
                raise
            logging.debug("traceback", exc_info=True)
            _stop(_sentence(error), getattr(error, "exit_status", 1))

    own = {holder.name for holder in shared}
    for name in (holder.name for holder in (WORKDIR, EXCHANGE_DIR, *GIN, *MATRIX)):
        if name in own:
            flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[name])
        else:
            delattr(flags.FLAGS, name)
    quiet_start.leave_out()
    # TensorFlow tells at each save how long it thought about its files.
    logging.get_absl_handler().addFilter(lambda record: record.filename != "functional_saver.py")
    python_logging.getLogger("tensorflow").setLevel(python_logging.ERROR)
    app.run(guarded)


def parse_gin(instead: str = "") -> None:
    """Reads ``--gin_file`` and ``--gin_bindings``.

    Args:
        instead: What a gin file would hold, for where ``--gin_file`` is not given.

    Raises:
        ValueError: A file does not exist, a binding cannot be parsed, names something unknown, or has a value
            of another type than the annotation of what it binds.
    """
    # gin has no public way to start afresh, nor to leave out its reader of packages, which logs every file
    # that it does not find.
    gin.config._LOCATION_PREFIXES[:] = [""]
    gin.config._FILE_READERS[:] = [(open, os.path.isfile)]
    for directory in GIN_SEARCH_PATH:
        gin.add_config_file_search_path(directory)
    try:
        if not GIN_FILE.value:
            gin.parse_config(instead)
        gin.parse_config_files_and_bindings(GIN_FILE.value, GIN_BINDINGS.value)
        bindings.check_types()
    except OSError as error:
        raise ValueError(
            f"gin file not found in --gin_file={','.join(GIN_FILE.value)}; "
            f"looked below {', '.join(GIN_SEARCH_PATH)}. {_sentence(error)}"
        ) from error
    except (SyntaxError, ValueError, TypeError, AttributeError, ImportError, RuntimeError) as error:
        near = bindings.nearest_to(str(error))
        raise ValueError(
            f"gin: {_sentence(error)}; correct the name or value in the gin file or --gin_bindings"
            + (f"; did you mean {near}?" if near else "")
        ) from error


def gin_flags() -> list[str]:
    """``--gin_file`` and ``--gin_bindings`` as they were given, for a program that is started from here."""
    return [
        *(f"--gin_file={path}" for path in GIN_FILE.value),
        *(f"--gin_bindings={binding}" for binding in GIN_BINDINGS.value),
    ]


def check_bindings() -> None:
    """Checks that everything that the gin files and bindings bind has been used by now.

    Raises:
        ValueError: Names that nothing used: a misspelt scope, or a part that the experiment does not have.
    """
    unused, meant = bindings.unused()
    if unused:
        raise ValueError(
            f"gin binds {', '.join(unused)}, but nothing uses it; remove the binding or correct its name"
            + (f"; did you mean {', '.join(meant)}?" if meant else "")
        )


def matrix_limits() -> dict[str, Any]:
    """What the flags in `MATRIX` say, as `run_matrix.train` takes it."""
    gib = _MAX_MEMORY.value
    return {
        "max_workers": _MAX_WORKERS.value,
        "threads": _THREADS.value,
        "max_memory_bytes": round(gib * 2**30) if gib else None,
    }


def workdir(which: str) -> str:
    """What ``--workdir`` says.

    Args:
        which: Which directory it is to name, as it follows "the directory".

    Returns:
        The directory.

    Raises:
        ValueError: It is not given.
    """
    if not WORKDIR.value:
        raise ValueError(f"--workdir is not set; name the directory {which}")
    return str(WORKDIR.value)


def require(condition: str, is_met: bool, *holders: flags.FlagHolder[Any]) -> None:
    """Checks that no flag is given that would have no effect.

    Args:
        condition: When they have one, as it follows "only": ``with --runner=beam``.
        is_met: Whether that is so.
        *holders: The flags, as ``flags.DEFINE_...`` returned them.

    Raises:
        ValueError: It is not so, and one of them is given.
    """
    for holder in holders:
        if holder.present and not is_met:
            raise ValueError(f"--{holder.name} has an effect only {condition}; see to that, or leave it out")


def settings_of(
    choice: flags.FlagHolder[str], holders: Mapping[str, Sequence[flags.FlagHolder[Any]]]
) -> dict[str, Any]:
    """The values of the flags that go with what another flag has chosen.

    Args:
        choice: The flag that chooses.
        holders: For each of its values the flags that then have an effect.

    Returns:
        Their values by name.

    Raises:
        ValueError: A flag is given that goes only with other choices.
    """
    users = collections.defaultdict(list)
    for value, of_value in holders.items():
        for holder in of_value:
            users[holder.name].append(value)
    for holder in (holder for of_value in holders.values() for holder in of_value):
        values = users[holder.name]
        require(f"with --{choice.name}={' or '.join(values)}", choice.value in values, holder)
    return {holder.name: holder.value for holder in holders[choice.value]}


def require_apart(directory: flags.FlagHolder[str | None], *holders: flags.FlagHolder[str | None]) -> None:
    """Checks that no directory is inside that of another flag, or the same.

    Args:
        directory: The flag that names a directory which holds nothing else.
        *holders: Flags that name other directories.

    Raises:
        ValueError: One is inside; or it is the same.
    """
    for holder in holders:
        if directory.value and holder.value:
            inner, outer = (
                (path if "://" in path else os.path.abspath(path)).rstrip("/") + "/"
                for path in (holder.value, directory.value)
            )
            if inner.startswith(outer):
                raise ValueError(
                    f"--{holder.name} is {holder.value!r}, inside --{directory.name}, which holds nothing "
                    "else; name a place beside it"
                )


def named(flag: flags.FlagHolder[list[str]]) -> list[tuple[str, str]]:
    """The values of a repeated flag of the form name=value.

    Args:
        flag: What ``flags.DEFINE_multi_string`` returned.

    Returns:
        Pairs of name and value, in the order of the command line.

    Raises:
        ValueError: A value has another form, or two have the same name.
    """
    pairs = [tuple(given.split("=", 1)) for given in flag.value]
    for given, pair in zip(flag.value, pairs, strict=True):
        if len(pair) != 2 or not all(pair):
            raise ValueError(f"--{flag.name}={given} is not understood; expected --{flag.name}=name=value")
    for name, number in collections.Counter(pair[0] for pair in pairs).items():
        if number > 1:
            raise ValueError(f"--{flag.name} has the name {name!r} {number} times; give each another one")
    return [(pair[0], pair[1]) for pair in pairs]


def check_unchanged(config: str, setting: str, may_change: Collection[str]) -> None:
    """Checks that a run continues with the settings that it began with, as far as they are known by now.

    Args:
        config: The gin file that the run has written; nothing is checked if there is none.
        setting: Further settings, as comments: ``# name: value``.
        may_change: Names of settings that may be others.

    Raises:
        ValueError: Some are others.
    """
    if files.exists(config):
        before = files.read(config).decode("utf-8")
        if found := bindings.changed(before, setting + bindings_in_force(), may_change):
            raise ValueError(
                f"{', '.join(found)}: the run in {os.path.dirname(config)!r} began otherwise; use the "
                "settings that it began with, or another workdir"
            )


def bindings_in_force() -> str:
    """What gin gave to everything that has been called by now, defaults included, as a gin file."""
    return str(gin.operative_config_str())


def _stop(message: str, status: int = 1) -> None:
    print(f"error: {message}", file=sys.stderr, flush=True)
    sys.exit(status)


def _sentence(error: Exception) -> str:
    """What an error says; of what gin adds to it, only the file and line."""
    text = str(error)
    if _NOT_BOUND.search(text):
        return text.split("\n")[0] + "; bind what is missing in a --gin_file or by --gin_bindings"
    message = (
        re.split(r"\n  In (?:call to|file|bindings)| in config string: ?\n", text)[0].strip().rstrip(".")
    )
    location = re.search(r"\n  In (file .*|bindings string line \d+)", text)
    return f"{message} (in {location.group(1)})" if location else message
