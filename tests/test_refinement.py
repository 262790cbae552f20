"""Instance optimisation on small known deformations."""

import numpy as np
import pytest

from itk_pdd import engine
from itk_pdd.kernels.mind import mind_features
from itk_pdd.refinement import refine
from itk_pdd.stages import Refinement
from itk_pdd.synthesis import make_pair


@pytest.mark.parametrize("size, channels", [((48, 44, 40), 12), ((90, 80), 4)])
def test_refinement_finds_a_small_deformation(size, channels):
    made = make_pair(size, 3.0, seed=2, displacement=5)
    features = [mind_features(image.array) for image in (made.fixed, made.moving)]
    start = np.zeros((*features[0].shape[:3], 3), np.float32)
    found = refine(*features, start, Refinement(iterations=60, diffusion=0.02), channels=channels)
    truth = made.truth.vectors / 3
    if len(size) == 2:
        assert not found[..., 2].any()
        found = found[0, ..., :2]
    before = np.linalg.norm(truth, axis=-1)[made.body].mean()
    after = np.linalg.norm(found - truth, axis=-1)[made.body].mean()
    assert after < 0.7 * before


def test_more_diffusion_is_smoother():
    made = make_pair((48, 44, 40), 3.0, seed=2, displacement=5)
    features = [mind_features(image.array) for image in (made.fixed, made.moving)]
    start = np.zeros((*features[0].shape[:3], 3), np.float32)
    rough, smooth = (refine(*features, start, Refinement(iterations=20, diffusion=d), channels=12) for d in (0.01, 1.0))
    assert np.square(np.diff(smooth, axis=0)).mean() < 0.2 * np.square(np.diff(rough, axis=0)).mean()


def test_engine_refines_where_asked():
    made = make_pair((48, 44, 40), 3.0, seed=2, displacement=8)
    plain = engine.register_volumes(made.fixed, made.moving).field.vectors
    refined = engine.register_volumes(made.fixed, made.moving, refinement_iterations=10).field.vectors
    assert 0.01 < np.abs(refined - plain).max() < 30
