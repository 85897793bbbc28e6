"""The paper's figures stand beside the suites that they are of."""

from __future__ import annotations

import pytest

from gato.data_pipelines.environments.registry import our_suites, suite_tasks
from gato.evaluation.paper_results import PAPER


@pytest.mark.parametrize(("suite", "domain"), PAPER.items())
def test_a_domain_of_the_paper_is_a_suite_of_ours_with_at_least_its_tasks(suite, domain):
    assert suite in our_suites()
    assert len(suite_tasks(suite)) >= domain.tasks


def test_the_small_breakout_of_the_starter_mixture_is_not_the_papers_atari():
    assert PAPER["ale"].mean == 30.9
    assert "atari" not in PAPER
