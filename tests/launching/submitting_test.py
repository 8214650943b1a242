"""Small programs stand in for those of schedulers."""

from __future__ import annotations

import sys

import pytest

from tf_codistill.launching import submitting


def test_a_program_gets_the_job_and_its_answer_comes_back() -> None:
    answer = "import sys; print(' got', sys.stdin.read())"
    assert submitting.submit([sys.executable, "-c", answer], "a job") == "got a job"


def test_a_refusal_is_told_in_the_words_of_the_program() -> None:
    refusal = "import sys; sys.exit('no such partition')"
    with pytest.raises(ChildProcessError, match="failed with exit status 1: no such partition"):
        submitting.submit([sys.executable, "-c", refusal], "a job")


def test_a_program_that_is_not_there_is_told() -> None:
    with pytest.raises(ValueError, match="no_such_program is not found; install it, or take what --dry_run"):
        submitting.submit(["no_such_program"], "a job")
