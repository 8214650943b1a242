import html.parser
import io

from rich.console import Console

from tests import toy_hostile, toy_runs
from tf_codistill import pictures, runs
from tf_codistill.health import curves, overview, page, table

NOW = 1_800_000_000.0


class _Elements(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data


def _overview(workdir):
    return overview.read(str(workdir), runs.exchange_dir(str(workdir)), 45.0, NOW)


def test_the_page_shows_the_run_and_loads_nothing(tmp_path):
    toy_runs.write(tmp_path, NOW - 60)
    shown = page.page(_overview(tmp_path))
    elements = _Elements(shown)
    for text in ("1350/2000", "group 1, 50 behind", "silent 1m 00s", "validation loss", "distillation loss"):
        assert text in elements.text, text
    assert [tag for tag, _ in elements.found].count("polyline") == 6
    assert {attrs.get("class") for tag, attrs in elements.found if tag == "td"} == {
        *("tight", "tight bad", "tight old", ""),
    }
    assert not [attrs for _, attrs in elements.found if {"src", "href", "onload"} & attrs.keys()]
    assert "script" not in {tag for tag, _ in elements.found}
    assert "script-src" not in shown


def test_nothing_of_a_hostile_run_becomes_an_element(tmp_path):
    toy_runs.write(tmp_path / "tame", NOW)
    toy_hostile.write(tmp_path / "hostile<b>")
    shown = page.page(_overview(tmp_path / "hostile<b>"))
    elements = _Elements(shown)
    assert {tag for tag, _ in elements.found} <= {
        tag for tag, _ in _Elements(page.page(_overview(tmp_path / "tame"))).found
    }
    assert not [attrs for _, attrs in elements.found if any(name.startswith("on") for name in attrs)]
    assert elements.text.count(toy_hostile.TAG) == 3, "host, last error, reason of a restart"
    assert "\x1b" not in shown


def test_nothing_of_a_hostile_run_reaches_the_terminal(tmp_path):
    toy_hostile.write(tmp_path)
    console = Console(file=io.StringIO(), width=4000, force_terminal=True, color_system=None)
    console.print(table.tables(_overview(tmp_path)))
    shown = console.file.getvalue()
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert "[red]" in shown


def test_a_page_that_updates_itself_may_run_its_own_script_alone(tmp_path):
    shown = page.page(_overview(tmp_path), refresh_secs=2.0)
    script = shown.partition("<script>")[2].partition("</script>")[0]
    assert "setTimeout(refresh, 2000)" in script
    assert f'content="{pictures.policy(script)}"' in shown
    assert pictures.policy(script) != pictures.policy(f"{script} ")
    assert "script-src 'sha256-" in pictures.policy(script)


def test_a_chart_of_numbers():
    drawn = curves.chart("loss <b>", {0: [(0, 5.0), (50, 4.0)], 3: [(50, 4.0)], 7: []})
    assert "loss &lt;b&gt;" in drawn
    assert drawn.count("<polyline") == 2
    assert 'points="52.0,12.0 324.0,174.0"' in drawn
    heights = [float(part.partition('"')[0]) for part in drawn.split('y="')[1:] if "group" in part[:200]]
    assert len(set(heights)) == len(heights)
    assert curves.chart("loss", {0: []}) == ""
    assert "nan" not in curves.chart("loss", {0: [(0, 1.0)]})


def test_many_points_are_thinned(tmp_path):
    toy_runs.log(
        tmp_path, 0, toy_runs.start(2000), *(toy_runs.train(s, staleness_steps=s) for s in range(1, 1001))
    )
    (health,) = _overview(tmp_path).groups
    points = health.status.curves["staleness_steps"]
    assert len(points) <= 300
    assert points[-1] == (1000, 1000.0)
    assert points == sorted(points)
