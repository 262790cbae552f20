"""Learn the calibration of the uncertainty and of the quality figure of a model from registrations with known errors.

    python tests/benchmarks/calibrate_uncertainty.py [--model auto] [--data abdomen] [--cases FOLDER] [-o FILE]

Registers synthetic pairs, training scans and deformed copies of themselves, and training scans of different subjects
(see uncertainty_cases.py), keeps what they told in FOLDER, and fits by maximum likelihood. With FOLDER
from an earlier run only what is missing is registered. The result is the JSON that belongs beside the default model
(itk_pdd/models/mind-ssc.uncertainty.json, the default of -o) or, with the folder of a trained model, in its card; then
--data says what it was trained on, and validation patients are registered instead of training ones.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from uncertainty_cases import Case, gathered, sets_of

import itk_pdd
from itk_pdd import models, registration
from itk_pdd.io import outputs
from itk_pdd.kernels.interpolation.cpu import sample_linear
from itk_pdd.network.card import CARD
from itk_pdd.solver import engine
from itk_pdd.synthesis import make_pair
from itk_pdd.uncertainty.calibration import Calibration, calibration_of
from itk_pdd.uncertainty.quality import CANDIDATES as QUALITY_CANDIDATES
from itk_pdd.uncertainty.quality import predicted

FEATURES = {
    "entropy0": 0.1,
    "width0": 0.05,
    "width1": 0.05,
    "width2": 0.05,
    "disagreement0": 0.1,
    "disagreement1": 0.1,
    "disagreement2": 0.1,
    "smoothing": 0.1,
    "strain": 0.03,
    "bending": 0.05,
    "intensity left": 0.05,
    "intensity residual": 0.01,
    "structure left": 0.05,
    "structure hold": 0.5,
    "structure residual": 0.05,
    "intensity bound": 0.1,
    "change1": 0.2,
    "decorrelation": 0.01,
    "unseen": 0.1,
    "disagreement0 near": 0.1,
    "disagreement1 near": 0.1,
    "disagreement2 near": 0.1,
    "bending near": 0.05,
    "strain near": 0.03,
    "decorrelation near": 0.01,
    "width0 near": 0.05,
}
"""What may count, and what is added before the logarithm; the entropy serves a baseline only."""

SHARES = {"synthetic": 3.0, "warped": 1.0, "organs image": 2.0, "organs hippocampus": 0.3}
"""How much each kind of case counts. Surfaces of hippocampi are met to half a voxel: their errors tell little."""


def group_of(case: Case) -> str:
    """Key of a case in :data:`SHARES`."""
    return f"organs {case.name.split('_')[0]}" if case.kind == "organs" else case.kind


_POINTS = 400  # of each case, so that a fit takes a minute
_LEAST = 0.05  # weight below which a feature is left out
_LEAST_TAIL = 3.0
AMBIGUITY = 0.2
"""Share of the spread over distinct hypotheses that is added. Not learned: real ambiguities, such as repeated
structures, hardly occur in the training pairs, and what does occur is not worse for this number."""
FLOOR = 0.2
"""Least scale per axis in working voxels; the standard deviation is then that of a step of the last search or more."""


def minimise(loss: Callable[[], torch.Tensor], parameters: list[torch.Tensor], **options: int) -> None:
    """Minimise a loss over its parameters, in place."""
    optimiser = torch.optim.LBFGS(parameters, line_search_fn="strong_wolfe", **options)

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)


def fit(cases: list[Case], names: list[str], wrong: list[str] | None = None) -> dict:
    """Maximum likelihood of intercepts, weights, tail and shape of the covariance.

    Parameters
    ----------
    cases : list of Case
        Registrations to learn from.
    names, wrong : list of str
        Features of the imprecision and of the possibility of a wrong match; None leaves that out.
    """
    rng = np.random.default_rng(0)
    every = [*names, *(wrong or ())]
    groups = []
    for case in cases:
        if group_of(case) not in SHARES:
            continue
        index = rng.choice(len(case.errors), min(_POINTS, len(case.errors)), replace=False)
        logs = [np.log(case.features[n][index] + FEATURES[n]) for n in every]
        logs = np.stack(logs, axis=-1) if every else np.zeros((len(index), 0))
        errors = torch.as_tensor(case.errors[index], dtype=torch.float64)
        shapes = None
        if errors.ndim == 2:
            shapes = {n: torch.as_tensor(v[index], dtype=torch.float64) for n, v in case.spread.items()}
        share = SHARES[group_of(case)] / sum(group_of(c) == group_of(case) for c in cases)
        spread = torch.as_tensor(AMBIGUITY * case.features["ambiguity"][index], dtype=torch.float64)
        groups.append((share, torch.as_tensor(logs, dtype=torch.float64), errors, shapes, spread))
    centre = torch.cat([group[1] for group in groups]).mean(dim=0)
    roots = torch.full((len(every),), 0.4, dtype=torch.float64, requires_grad=True)
    others = torch.tensor([0.0, -1.0, 1.0, -1.0, -1.0, 0.0], dtype=torch.float64, requires_grad=True)
    count = len(names)

    def loss() -> torch.Tensor:
        tail = _LEAST_TAIL + torch.nn.functional.softplus(others[2])
        shares = torch.softmax(others[3:], dim=0)
        total = 0.002 * (roots**2).sum()
        for share, logs, errors, shapes, spread in groups:
            terms = (logs - centre) * roots**2
            fine = torch.exp(others[0] + terms[:, :count].sum(dim=1))
            square = torch.clamp(fine, min=FLOOR) ** 2 + spread**2
            if wrong is not None:
                square = square + torch.exp(2 * (others[1] + terms[:, count:].sum(dim=1)))
            total = total + share * negative_log_likelihood(errors, torch.log(square) / 2, tail, shares, shapes)
        return total

    minimise(loss, [roots, others], max_iter=100, history_size=20)
    weights, middle = (roots**2).detach().numpy(), centre.numpy()
    structure, marginals, _ = torch.softmax(others[3:].detach(), dim=0).tolist()
    result = {
        "intercept": float(others[0].detach()) - float(middle[:count] @ weights[:count]),
        "weights": dict(zip(names, weights[:count].tolist(), strict=True)),
        "tail": float(_LEAST_TAIL + torch.nn.functional.softplus(others[2].detach())),
        "structure": structure,
        "marginals": marginals,
        "loss": float(loss().detach()),
    }
    if wrong is not None:
        result["mismatch"] = {
            "intercept": float(others[1].detach()) - float(middle[count:] @ weights[count:]),
            "weights": dict(zip(wrong, weights[count:].tolist(), strict=True)),
        }
    return result


def negative_log_likelihood(errors, scale, tail, shares, shapes) -> torch.Tensor:
    """Mean over points, per component, of the Student distribution with these logarithms of scales."""
    if shapes is None:
        dimension, squares, volume = 1, errors**2, 0.0
    else:
        dimension = errors.shape[1]
        matrix = shares[2] * torch.eye(dimension, dtype=errors.dtype)
        matrix = matrix + dimension * (shares[0] * shapes["structure"] + shares[1] * shapes["marginals"])
        squares = (errors * torch.linalg.solve(matrix, errors[..., None])[..., 0]).sum(dim=1)
        volume = torch.logdet(matrix) / 2
    squares = squares * torch.exp(-2 * scale)
    constant = torch.lgamma(tail / 2) - torch.lgamma((tail + dimension) / 2) + dimension / 2 * torch.log(np.pi * tail)
    density = constant + dimension * scale + volume + (tail + dimension) / 2 * torch.log1p(squares / tail)
    return density.mean() / dimension


def small(cases: list[Case]) -> dict:
    """The fit with the features that matter in each of its two terms."""
    # A PDD network searches in one direction, so that nothing can disagree.
    names = [n for n in FEATURES if not n.startswith("entropy") and all(n in case.features for case in cases)]
    wrong = list(names)
    while True:
        found = fit(cases, names, wrong)
        both = found["weights"], found["mismatch"]["weights"]
        print(f"loss {found['loss']:.4f}", *[{n: round(w, 2) for n, w in each.items()} for each in both], flush=True)
        kept = [[name for name, weight in each.items() if weight >= _LEAST] for each in both]
        if kept == [names, wrong]:
            return found
        names, wrong = kept


def coherence(cases: Iterable[Case], calibration: Calibration) -> float:
    """Distance over which normalised errors resemble each other, in working voxels.

    Noise smoothed by a Gaussian of standard deviation w has the correlation exp(-r^2 / (4 w^2)) over the distance r;
    w is fitted to the products of normalised errors of pairs of points up to 40 voxels apart.
    """
    distances, products = [], []
    for case in cases:
        if case.errors.ndim < 2 or group_of(case) not in SHARES:
            continue
        scaled = case.errors / scales(case, calibration)[:, None]
        scaled = scaled / np.sqrt(np.mean(scaled**2))
        first, second = np.random.default_rng(0).integers(0, len(scaled), (2, 200_000))
        distance = np.linalg.norm(case.points[first] - case.points[second], axis=1) / case.voxel
        near = (distance < 40) & (first != second)
        distances.append(distance[near])
        products.append((scaled[first] * scaled[second]).mean(axis=1)[near])
    distance, product = np.concatenate(distances), np.concatenate(products)
    widths = np.geomspace(1, 30, 60)
    bins = np.digitize(distance, np.arange(0, 41, 2))
    centres = np.array([distance[bins == b].mean() for b in np.unique(bins)])
    means = np.array([product[bins == b].mean() for b in np.unique(bins)])
    losses = [np.square(np.exp(-(centres**2) / (4 * w**2)) - means).sum() for w in widths]
    return float(widths[int(np.argmin(losses))])


def scales(case: Case, calibration: Calibration) -> np.ndarray:
    """Scale per axis at the points of a case, in working voxels."""
    return np.broadcast_to(calibration.scale(case.features), len(case.errors))


def learn_quality(cases: list[Case]) -> dict:
    """Predicted overlap by least squares, and the threshold that tells failures from the rest best.

    A failure is a registration with less than half of the median overlap of the properly started ones of its data.
    """
    known = [case for case in cases if np.isfinite(case.dice)]
    names = [n for n in QUALITY_CANDIDATES if all(n in case.summary for case in known)]
    logs = torch.tensor([[np.log(case.summary[n] + 0.02) for n in names] for case in known], dtype=torch.float64)
    dice = torch.tensor([case.dice for case in known], dtype=torch.float64)
    roots = torch.full((len(names),), 0.3, dtype=torch.float64, requires_grad=True)
    intercept = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([roots, intercept], max_iter=300, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        figure = torch.sigmoid(intercept - logs @ roots**2)
        value = ((figure - dice) ** 2).mean() + 1e-4 * (roots**4).sum()
        value.backward()
        return value

    optimiser.step(closure)
    weights = {n: float(w) for n, w in zip(names, (roots**2).tolist(), strict=True) if w > 0.01}
    learned = {"intercept": float(intercept.detach()), "weights": weights}
    figures = np.array([predicted(case.summary, **learned) for case in known])
    failed = failures(known)
    if not failed.any():
        # Without failures there is nothing to tell apart: the alarm of the default model is kept.
        return calibration_of(models.DEFAULT.name).quality
    steps = np.linspace(0.05, 0.95, 181)
    accuracy = [np.mean(figures[failed] < t) + np.mean(figures[~failed] >= t) for t in steps]
    best = np.flatnonzero(np.isclose(accuracy, max(accuracy)))
    return {**learned, "threshold": float(steps[best].mean())}


def failures(cases: list[Case]) -> np.ndarray:
    """Which registrations failed: less than half of the median overlap of the proper ones of the same data, bool."""
    data = [case.name.split("_")[0] if case.kind != "synthetic" else "synthetic" for case in cases]
    medians = {
        name: np.median([c.dice for c, d in zip(cases, data, strict=True) if d == name and c.kind != "misplaced"])
        for name in set(data)
    }
    return np.array([case.dice < 0.5 * medians[d] for case, d in zip(cases, data, strict=True)])


def learn(cases: list[Case], find=small) -> Calibration:
    """The whole calibration; ``find`` gives intercepts, weights, tail and shares as :func:`fit` does."""
    found = find(cases)
    calibration = Calibration(
        intercept=round(found["intercept"], 4),
        weights={n: round(w, 4) for n, w in found["weights"].items()},
        offsets={n: FEATURES[n] for n in FEATURES if n in found["weights"] or n in found["mismatch"]["weights"]},
        mismatch={
            "intercept": round(found["mismatch"]["intercept"], 4),
            "weights": {n: round(w, 4) for n, w in found["mismatch"]["weights"].items()},
        },
        ambiguity=AMBIGUITY,
        tail=round(found["tail"], 3),
        # A hundredth stays isotropic, so that every matrix has an inverse.
        structure=round(0.99 * found["structure"], 4),
        marginals=round(0.99 * found["marginals"], 4),
        floor=FLOOR,
    )
    kinds = sorted({case.kind for case in cases})
    learned = {kind: sum(case.kind == kind for case in cases) for kind in kinds} | {"version": itk_pdd.__version__}
    return replace(
        calibration, coherence=round(coherence(cases, calibration), 2), quality=learn_quality(cases), learned=learned
    )


def temperatures(factors: Iterable[float] = (0.13, 0.26, 0.4, 0.52, 1.0)) -> None:
    """Print how surprising true displacements are under the marginals of every stage, for factors of the temperature.

    Mean negative log-likelihood in nats over the body of synthetic pairs; the best factor is that of least surprise.
    """
    heard = []

    class Listener(engine.Recorder):
        def begin(self, before, **stage):
            heard.append((before, stage, []))
            super().begin(before, **stage)

        def marginals(self, nodes, costs, offsets):
            heard[-1][-1].append((nodes, np.array(costs)))
            super().marginals(nodes, costs, offsets)

    plain, engine.Recorder = engine.Recorder, Listener
    try:
        for seed, kind in ((200, "abdomen"), (201, "shapes"), (202, "abdomen")):
            heard.clear()
            pair = make_pair((112, 96, 80), 3.0, seed=seed, kind=kind, displacement=25.0)
            grid = registration.register_volumes(pair.fixed, pair.moving, uncertainty=True).working_grid
            for number, (before, stage, parts) in enumerate(heard, start=1):
                costs = np.empty((int(np.prod(before.nodes)), *parts[0][1].shape[1:]), np.float32)
                for nodes, part in parts:
                    costs[nodes] = part
                costs = costs.reshape(*before.nodes, *costs.shape[1:])
                points = grid.blocks(before.size).points()
                index = pair.fixed.grid.to_index(points)
                body = sample_linear(pair.body.astype(np.float32), index) > 0.9
                true = (pair.truth.at(points) / grid.spacing[0] - before.vectors) / stage["scale"]
                steps = np.clip(np.rint(true / stage["step"]) + stage["count"] // 2, 0, stage["count"] - 1)
                steps = steps.astype(int)[body]
                values = costs[body][..., : stage["count"]]
                values = values - values.min(axis=(1, 2, 3), keepdims=True)
                own = values[np.arange(len(values)), steps[:, 2], steps[:, 1], steps[:, 0]]
                surprise = [
                    np.mean(t * own + np.log(np.exp(-t * values).sum(axis=(1, 2, 3))))
                    for t in (factor * stage["temperature"] for factor in factors)
                ]
                told = ", ".join(f"{f:g}: {v:.2f}" for f, v in zip(factors, surprise, strict=True))
                print(f"{kind} {seed}, stage {number}: {told}", flush=True)
    finally:
        engine.Recorder = plain


def main() -> None:
    """Gather, fit, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="auto", help="name or folder of the model")
    parser.add_argument("--data", choices=("abdomen", "hippocampus"), help="what a trained model was trained on")
    parser.add_argument("--cases", type=Path, default=Path("uncertainty-cases"), help="where cases are kept")
    parser.add_argument("-o", "--output", type=Path, help="JSON file, or the card of a trained model")
    parser.add_argument("--temperatures", action="store_true", help="only show what speaks for the temperature")
    options = parser.parse_args()
    if options.temperatures:
        temperatures()
        return
    model = models.load(options.model)
    if model.name != models.DEFAULT.name and options.output is None:
        parser.error("a trained model keeps its calibration in its card: name it with -o")
    sets = gathered(*sets_of(model.name, options.data)[0], options.cases, model=model, force=True)
    calibration = learn([case for cases in sets.values() for case in cases])
    target = options.output or Path(models.__file__).parent / "mind-ssc.uncertainty.json"
    content = calibration.to_dict()
    if target.name == CARD:
        content = {**json.loads(target.read_text(encoding="utf-8")), "uncertainty": content}
    text = json.dumps(content, indent=2) + "\n"
    outputs.write_all([(outputs.Output(target, "output", (".json",)), lambda path: path.write_text(text) and None)])
    print(text)


if __name__ == "__main__":
    main()
