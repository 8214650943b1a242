from tf_codistill.health.alarms import Alarms
from tf_codistill.health.progress import Status
from tf_codistill.health.signs import Health

BEGAN = 1000.0


def _health(group=0, sign_at=None, **status):
    return Health(Status(group, **status), sign_at=sign_at)


def test_silence_is_told_once_and_then_counted():
    alarms = Alarms(45.0, BEGAN)
    told = "group 1: no new snapshot and no new line of metrics for 45 s"
    assert alarms.look([_health(0, 1050.0), _health(1, 1010.0)], 1055.0) == []
    assert alarms.look([_health(0, 1050.0), _health(1, 1010.0)], 1056.0) == [told]
    assert alarms.look([_health(1, 1010.0)], 1070.0) == []
    assert alarms.counted() == "group 1: fell silent once"
    assert alarms.look([_health(1, 1071.0)], 1072.0) == []
    assert alarms.look([_health(1, 1071.0)], 1120.0) == []
    assert alarms.counted() == "group 1: fell silent 2 times"


def test_silence_before_the_start_does_not_count():
    alarms = Alarms(45.0, BEGAN)
    assert alarms.look([_health(0, 10.0)], BEGAN + 45) == []
    assert len(alarms.look([_health(0, 10.0)], BEGAN + 46)) == 1


def test_a_group_that_has_ended_or_not_begun_is_not_silent():
    alarms = Alarms(45.0, BEGAN)
    assert alarms.look([_health(0, 1001.0, is_ended=True), _health(1)], BEGAN + 1000) == []
    assert alarms.counted() == ""


def test_failed_publications_are_told_once_and_then_counted():
    alarms = Alarms(45.0, BEGAN)
    told = "group 0: 1 publication of a snapshot failed; its peers learn from older ones"
    assert alarms.look([_health(failed_publications=1)], BEGAN) == [told]
    assert alarms.look([_health(failed_publications=1)], BEGAN) == []
    assert alarms.look([_health(failed_publications=3)], BEGAN) == []
    assert alarms.counted() == "group 0: 3 publications of a snapshot failed"
