r"""Says what a plan takes, in steps, hours, bytes and dollars, from what a small run has measured.

    python -m tf_codistill.plan --workdir=runs/two --num_groups=2 --workers_per_group=8 --num_steps=10000 \
        --share=0.75 --dollars_per_hour=2.5
    python -m tf_codistill.plan --workdir=runs/two --results=runs/sweep/results.jsonl --setting='two groups'

The share of a lone model's steps after which groups are as good as it comes from a sweep, or from --share.
"""

from __future__ import annotations

from absl import flags

from tf_codistill import planning, program, reporting

_NUM_GROUPS = flags.DEFINE_integer("num_groups", 2, "Groups that codistil.", 2)
_WORKERS = flags.DEFINE_integer("workers_per_group", 1, "Workers of each.", 1)
_NUM_STEPS = flags.DEFINE_integer("num_steps", None, "Steps of a lone group; those of the run by default.", 1)
_SHARE = flags.DEFINE_float("share", None, "Share of them that codistillation needs; 1 by default.")
_BURN_IN = flags.DEFINE_integer("burn_in_steps", 0, "Steps in which nobody is asked.", 0)
_LARGER = flags.DEFINE_float(
    "larger_batch_share", None, "Share of them that one group needs with batches as large as those of all."
)
_DOLLARS = flags.DEFINE_float("dollars_per_hour", 0.0, "Price of a worker.", 0.0)
_RESULTS = flags.DEFINE_string("results", None, "Results of a sweep, which say the share.")
_SETTING = flags.DEFINE_string("setting", None, "With --results: the setting of the groups.")
_BASELINE = flags.DEFINE_string("baseline", None, "With --results: the lone model; the first by default.")

_COLUMNS = (
    *("", "workers", "steps", "hours", "GB of snapshots", "GB of gradients a worker", "dollars"),
    "codistillation is as fast at a share of",
)


def main() -> None:
    """Prints the ways to the same quality."""
    program.require("with --results", bool(_RESULTS.value), _SETTING, _BASELINE)
    program.require("without --results", not _RESULTS.value, _SHARE)
    if not program.WORKDIR.value:
        raise ValueError("--workdir is not set; name a run of two groups to plan from")
    rates = planning.measure(program.WORKDIR.value)
    scenario = planning.Scenario(
        num_groups=_NUM_GROUPS.value,
        workers_per_group=_WORKERS.value,
        num_steps=_NUM_STEPS.value or rates.num_steps,
        share=_share(),
        burn_in_steps=_BURN_IN.value,
        larger_batch_share=_LARGER.value,
        dollars_per_hour=_DOLLARS.value,
    )
    rows = []
    for way in planning.ways(rates, scenario):
        gigabytes = (f"{size / 1e9:,.3f}" for size in (way.exchanged_bytes, way.gradient_bytes))
        even = "" if way.break_even_share is None else f"{way.break_even_share:.2f}"
        cells = [way.name, str(way.num_workers), f"{way.steps:,}", f"{way.hours:,.2f}", *gigabytes]
        rows.append([*cells, f"{way.dollars:,.2f}", even])
    print(reporting.table(_COLUMNS, rows))


def _share() -> float:
    if not _RESULTS.value:
        return 1.0 if _SHARE.value is None else float(_SHARE.value)
    from tf_codistill.sweeps import results, summary

    found = summary.Summary(results.read(_RESULTS.value), _BASELINE.value)
    if _SETTING.value not in found.settings:
        raise ValueError(f"--setting is {_SETTING.value!r}; expected one of {found.settings}")
    share, number = found.share_of_steps(_SETTING.value), found.below_baseline(_SETTING.value).number
    if share.number < max(number, 1):
        raise ValueError(
            f"{_SETTING.value!r} passes the best loss of {found.baseline!r} in {share.number} of {number} "
            "seeds that both have, so that there is no share of steps to plan with; give --share in place of "
            "--results"
        )
    return share.mean


if __name__ == "__main__":
    program.run(main, program.WORKDIR)
