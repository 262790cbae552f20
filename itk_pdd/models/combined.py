"""A PDD network, and the descent of the default model after it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from itk_pdd.errors import RegistrationError
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import CombinedCard
from itk_pdd.solver.devices import checked_device, computing_threads
from itk_pdd.solver.engine import DenseModel
from itk_pdd.solver.problem import Options, Problem, Result
from itk_pdd.solver.settings import Refinement
from itk_pdd.uncertainty.calibration import DESCENT, Calibration, calibration_in
from itk_pdd.uncertainty.searches import SearchRecorder

__all__ = ["CombinedModel"]

_SEARCHED = 0.5  # of the progress


@dataclass(frozen=True)
class CombinedModel(DenseModel):
    """The searches of a PDD network, then a descent on its organ probabilities and the intensities.

    The network's field is as coarse as its control points, and it knows of organs alone. The descent brings their
    surfaces together, and what has no label as well.

    Parameters
    ----------
    **settings
        See :class:`itk_pdd.solver.settings.Settings`; the stages are not used.
    pdd : PddModel
        Its features are organ probabilities.
    uncertainty : mapping
        Calibration of the uncertainty, see :class:`itk_pdd.network.card.CombinedCard`.
    """

    pdd: PddModel | None = None
    uncertainty: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @classmethod
    def from_folder(cls, folder: str | os.PathLike[str], default: DenseModel) -> CombinedModel:
        """Read the card of a combined model, and the PDD network that it names.

        Parameters
        ----------
        folder : path-like
            Holds ``card.json``.
        default : DenseModel
            Gives all settings but those of the descent.

        Raises
        ------
        RegistrationError
            If a file is missing or damaged, or the PDD network does not compare organs.
        """
        card = CombinedCard.from_folder(folder)
        pdd = PddModel.from_folder(Path(folder).parent / card.search)
        if pdd.network.organs is None:
            raise RegistrationError(
                f"model {card.name} descends on organ probabilities, but {card.search} does not compare them: name a "
                "PDD network that does"
            )
        made = cls.of(pdd, default, name=card.name, correlation=card.correlation)
        return replace(made, uncertainty=card.uncertainty)

    @classmethod
    def of(cls, pdd: PddModel, default: DenseModel, *, name: str, correlation: float) -> CombinedModel:
        """Make the model of a PDD network; see :meth:`from_folder` and :class:`itk_pdd.network.card.CombinedCard`."""
        settings = {each: getattr(default, each) for each in default.__dataclass_fields__}
        return cls(**settings | {"name": name, "refinement": Refinement.of_classes(correlation), "pdd": pdd})

    def calibrated(self) -> Calibration:
        """Return the calibration on the card, else that of the package for such models."""
        return calibration_in(self.name, self.uncertainty, default=DESCENT)

    def register(self, problem: Problem, options: Options) -> Result:
        """Register two images.

        Parameters
        ----------
        problem, options
            See :meth:`itk_pdd.models.pddmodel.PddModel.register`; the smoothness is that of the descent.

        Raises
        ------
        RegistrationError
            If the network cannot use the images or an option, or the memory is not enough.
        """
        assert self.pdd is not None
        pdd = replace(self.pdd, card=replace(self.pdd.card, name=self.name))
        pdd.check(problem, replace(options, smoothness=1.0))
        report = options.progress
        problem = problem.without_outliers()
        pdd.require(problem, options, on_host=checked_device(options.device) == "cpu")
        with computing_threads(options.threads, torch=True):
            report(0.0, "organs")
            organs = pdd.organs(problem, options)
            first = replace(options, progress=lambda f, text: report(_SEARCHED * f, text))
            recorder = SearchRecorder(self.calibrated().temperature) if options.uncertainty else None
            start, grid = pdd.searched(problem, first, organs, recorder)
        rest = replace(options, progress=lambda f, text: report(_SEARCHED + (1 - _SEARCHED) * f, text))
        result = self.registered(problem, rest, start=start, organs=organs, searches=recorder)
        return replace(result, capture_range_mm=0.5 * pdd.capture_range_mm(grid))
