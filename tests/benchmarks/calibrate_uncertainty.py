"""Learn the calibration of the uncertainty and of the quality figure of a model from registrations with known errors.

    python tests/benchmarks/calibrate_uncertainty.py [--model auto] [--cases FOLDER] [-o FILE]

Registers synthetic pairs, training scans and deformed copies of themselves, and training scans of different subjects
(itk_pdd_cases: see uncertainty_cases.py), keeps what they told in FOLDER, and fits by maximum likelihood. With FOLDER
from an earlier run only what is missing is registered. The result is the JSON that belongs beside the default model
(itk_pdd/models/mind-ssc.uncertainty.json, the default of -o) or, with the folder of a trained model, in its card.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from uncertainty_cases import Case

from itk_pdd.uncertainty.calibration import Calibration

FEATURES = {
    "width0": 0.05,
    "width1": 0.05,
    "width2": 0.05,
    "width3": 0.05,
    "disagreement0": 0.1,
    "disagreement1": 0.1,
    "disagreement2": 0.1,
    "disagreement3": 0.1,
    "smoothing": 0.1,
    "strain": 0.03,
    "bending": 0.05,
    "intensity left": 0.05,
    "intensity residual": 0.01,
    "structure left": 0.05,
    "structure hold": 0.5,
    "structure residual": 0.05,
    "decorrelation": 0.01,
    "unseen": 0.1,
}
"""What may count, and what is added before the logarithm."""

KINDS = {"synthetic": 1.0, "warped": 1.0, "organs": 1.0}
"""How much each kind of case counts."""

_POINTS = 400  # of each case, so that a fit takes a minute
_LEAST = 0.03  # weight below which a feature is left out
_LEAST_TAIL = 2.5


def fit(cases: list[Case], names: list[str]) -> dict:
    """Maximum likelihood of intercept, weights, tail and shape of the covariance."""
    rng = np.random.default_rng(0)
    groups = []
    for case in cases:
        if case.kind not in KINDS:
            continue
        index = rng.choice(len(case.errors), min(_POINTS, len(case.errors)), replace=False)
        logs = np.stack([np.log(case.features[n][index] + FEATURES[n]) for n in names], axis=-1)
        errors = torch.as_tensor(case.errors[index], dtype=torch.float64)
        shapes = None
        if errors.ndim == 2:
            shapes = {n: torch.as_tensor(v[index], dtype=torch.float64) for n, v in case.spread.items()}
        share = KINDS[case.kind] / sum(c.kind == case.kind for c in cases)
        groups.append((share, torch.as_tensor(logs, dtype=torch.float64), errors, shapes))
    centre = torch.cat([logs for _, logs, _, _ in groups]).mean(dim=0)
    roots = torch.full((len(names),), 0.4, dtype=torch.float64, requires_grad=True)
    others = torch.tensor([0.0, 1.0, -1.0, -1.0, 0.0], dtype=torch.float64, requires_grad=True)

    def loss() -> torch.Tensor:
        tail = _LEAST_TAIL + torch.nn.functional.softplus(others[1])
        shares = torch.softmax(others[2:], dim=0)
        total = 0.002 * (roots**2).sum()
        for share, logs, errors, shapes in groups:
            scale = others[0] + (logs - centre) @ roots**2
            total = total + share * _negative_log_likelihood(errors, scale, tail, shares, shapes)
        return total

    optimiser = torch.optim.LBFGS([roots, others], max_iter=200, history_size=20, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss()
        value.backward()
        return value

    optimiser.step(closure)
    weights = (roots**2).detach().numpy()
    structure, marginals, _ = torch.softmax(others[2:].detach(), dim=0).tolist()
    return {
        "intercept": float(others[0].detach()) - float(centre.numpy() @ weights),
        "weights": dict(zip(names, weights.tolist(), strict=True)),
        "tail": float(_LEAST_TAIL + torch.nn.functional.softplus(others[1].detach())),
        "structure": structure,
        "marginals": marginals,
        "loss": float(loss().detach()),
    }


def _negative_log_likelihood(errors, scale, tail, shares, shapes) -> torch.Tensor:
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
    """The fit with the features that matter: those of least weight go one after the other."""
    names = list(FEATURES)
    while True:
        found = fit(cases, names)
        print(f"loss {found['loss']:.4f}:", ", ".join(f"{n} {w:.2f}" for n, w in found["weights"].items()), flush=True)
        least = sorted(found["weights"].items(), key=lambda item: item[1])
        drop = [name for name, weight in least if weight < _LEAST]
        if not drop:
            return found
        names = [name for name in names if name not in drop]


def coherence(cases: Iterable[Case], calibration: Calibration) -> float:
    """Distance over which normalised errors resemble each other, in working voxels.

    Noise smoothed by a Gaussian of standard deviation w has the correlation exp(-r^2 / (4 w^2)) over the distance r;
    w is fitted to the products of normalised errors of pairs of points up to 40 voxels apart.
    """
    distances, products = [], []
    for case in cases:
        if case.errors.ndim < 2 or case.kind not in KINDS:
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
    logs = [w * np.log(case.features[n] + calibration.offsets[n]) for n, w in calibration.weights.items()]
    return np.maximum(np.exp(calibration.intercept + np.sum(logs, axis=0)), calibration.floor)
