"""Do one registration of a comparison in a process of its own, and judge it by the rule of ``pdd-register``.

``python -m itk_pdd.commands.comparison_run JOB.json``: :mod:`itk_pdd.evaluation.run`, with registrations from other
starts where the result is in doubt.
"""

from __future__ import annotations

from itk_pdd import models
from itk_pdd.evaluation.run import main
from itk_pdd.evaluation.scoring import Case
from itk_pdd.evaluation.verdict import Rivals
from itk_pdd.geometry.mapping import Mapping
from itk_pdd.solver.problem import Problem
from itk_pdd.solver.rivals import rivals

__all__: list[str] = []


def _again(case: Case, start: Mapping | None, threads: int) -> Rivals:
    """Register a pair of a comparison again, from its start and from others."""
    problem = Problem((case.fixed,), (case.moving,), start, case.fixed_mask, case.moving_mask)
    return rivals(problem, models.DEFAULT, threads=threads)


if __name__ == "__main__":
    main(rivals=_again)
