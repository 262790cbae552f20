"""Instance optimisation on small known deformations."""

from dataclasses import replace

import numpy as np
import pytest
from conftest import made_pair

from itk_pdd import models, registration
from itk_pdd.geometry.blockfield import BlockField
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.solver import refinement
from itk_pdd.solver.settings import Refinement, Regularisation
from itk_pdd.solver.working import WorkingImage

SETTINGS = Refinement(max_voxels=10**9)


def working(volume, mask=None, **options):
    """An image as the search takes it, a 2-D one as one slice."""
    deep = volume.array if volume.grid.dimension == 3 else volume.array[None]
    return WorkingImage((deep.astype(np.float32),), volume.grid.dimension, mask=mask, **options)


def refined(fixed, moving, start, block, settings):
    """The refined displacements of an array on blocks of so many working voxels, and the size of the new blocks."""
    found = refinement.refined(fixed, moving, BlockField(start, block, fixed.shape, fixed.dimension), settings)
    return found.vectors, found.size


def error(found, made):
    """Mean distance from the truth in voxels of 3 mm, before and after."""
    truth = made.truth.vectors / 3
    found = found if found.shape[:-1] == truth.shape[:-1] else found[0, ..., :2]
    return tuple(np.linalg.norm(u - truth, axis=-1)[made.body].mean() for u in (0 * truth, found))


@pytest.mark.parametrize("contrast", [1, -1])
@pytest.mark.parametrize("size", [(48, 44, 40), (90, 80)])
def test_refinement_finds_a_small_deformation(size, contrast):
    made = made_pair(size, 3.0, seed=2, displacement=5)
    fixed, moving = working(made.fixed), working(replace(made.moving, array=contrast * made.moving.array))
    found, block = refined(fixed, moving, np.zeros((*fixed.shape, 3), np.float32), 1, SETTINGS)
    assert block == 1
    if len(size) == 2:
        assert not found[..., 2].any()
    before, after = error(found, made)
    assert after < 0.6 * before


@pytest.mark.parametrize("block, limit, target", [(4, 10**9, 1), (1, 12_000, 2), (4, 12_000, 2), (3, 12_000, 2)])
def test_the_field_may_come_on_any_lattice(block, limit, target):
    made = made_pair((48, 44, 40), 3.0, seed=2, displacement=5)
    fixed, moving = working(made.fixed), working(made.moving)
    shape = tuple(-(-n // block) for n in fixed.shape)
    start = np.full((*shape, 3), 2.5, np.float32)
    still, where = refined(fixed, moving, start, block, replace(SETTINGS, iterations=0, finish=0, max_voxels=limit))
    assert where == target
    assert still.shape[:3] == tuple(-(-n // target) for n in fixed.shape)
    np.testing.assert_allclose(still, 2.5, rtol=1e-5)


@pytest.mark.parametrize("weight", ["diffusion", "volume"])
def test_a_larger_weight_is_smoother(weight):
    made = made_pair((48, 44, 40), 3.0, seed=2, displacement=5)
    fixed, moving = working(made.fixed), working(made.moving)
    start = np.zeros((*fixed.shape, 3), np.float32)
    roughness = []
    for value in (0.02, 2.0):
        weights = replace(Regularisation(diffusion=0.02, volume=0.0, radius=2), **{weight: value})
        field, _ = refined(fixed, moving, start, 1, replace(SETTINGS, voxels=weights))
        if weight == "diffusion":
            roughness.append(np.square(np.diff(field, axis=0)).mean())
        else:
            roughness.append(np.var(DisplacementField(3 * field, made.fixed.grid).jacobian_determinant()))
    assert roughness[1] < 0.2 * roughness[0]


def test_blocks_have_weights_of_their_own():
    made = made_pair((48, 44, 40), 3.0, seed=2, displacement=5)
    fixed, moving = working(made.fixed), working(made.moving)
    start = np.zeros((*fixed.shape, 3), np.float32)
    weak, strong = (Regularisation(diffusion=weight, volume=weight, radius=2) for weight in (0.02, 2.0))
    roughness = []
    for blocks in (weak, strong):
        settings = Refinement(voxels=weak, blocks=blocks, max_voxels=12_000, coarse=None, finish=0)
        field, block = refined(fixed, moving, start, 1, settings)
        assert block == 2
        roughness.append(np.square(np.diff(field, axis=0)).mean())
    assert roughness[1] < 0.2 * roughness[0]


@pytest.mark.parametrize("block", [1, 2, 4])
def test_large_blocks_first_find_what_lies_far_apart(block):
    made = made_pair((80, 72, 64), 3.0, seed=5, displacement=40)
    fixed, moving = working(made.fixed), working(made.moving)
    start = np.zeros((*(-(-n // block) for n in fixed.shape), 3), np.float32)
    errors = []
    for coarse in (None, Refinement().coarse):
        settings = Refinement(max_voxels=50_000, coarse=coarse, finish=0)
        field, lattice = refined(fixed, moving, start, block, settings)
        assert lattice == 2
        truth = made.truth.vectors.reshape(32, 2, 36, 2, 40, 2, 3).mean((1, 3, 5)) / 3
        errors.append(np.linalg.norm(field - truth, axis=-1)[made.body[::2, ::2, ::2]].mean())
    assert errors[1] < 0.9 * errors[0]


def test_a_factor_of_the_smoothness_is_one_of_all_weights():
    twice = models.DEFAULT.smoother(2.0)
    assert twice.stages == models.DEFAULT.stages
    for name in ("voxels", "blocks", "coarse"):
        before, after = (getattr(model.refinement, name) for model in (models.DEFAULT, twice))
        assert after == replace(before, diffusion=2 * before.diffusion, volume=2 * before.volume)
    without = replace(models.DEFAULT, refinement=Refinement(coarse=None))
    assert without.smoother(2.0).refinement.coarse is None
    searched = replace(models.DEFAULT, refinement=Refinement(iterations=0))
    for before, after in zip(searched.stages, searched.smoother(2.0).stages, strict=True):
        assert after.smoothness == 2 * before.smoothness


@pytest.mark.parametrize("seed", [2, 3])
def test_derivatives_are_more_exact(seed):
    made = made_pair((48, 44, 40), 3.0, seed=seed, displacement=5)
    fixed, moving = working(made.fixed), working(made.moving)
    start = np.zeros((*fixed.shape, 3), np.float32)
    errors = [
        error(refined(fixed, moving, start, 1, replace(SETTINGS, derivatives=derivatives))[0], made)[1]
        for derivatives in (False, True)
    ]
    assert errors[1] < 0.95 * errors[0]


def test_a_mask_too_thin_for_derivatives_leaves_the_intensities():
    made = made_pair((48, 44, 40), 3.0, seed=2, displacement=5)
    thin = np.zeros(made.fixed.array.shape, bool)
    thin[::4] = True
    fixed, moving = working(made.fixed, thin), working(made.moving)
    start = np.zeros((*fixed.shape, 3), np.float32)
    found = [refined(fixed, moving, start, 1, replace(SETTINGS, derivatives=d))[0] for d in (False, True)]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize("masked", ["fixed", "moving"])
def test_a_mask_excludes(masked):
    made = made_pair((48, 44, 40), 3.0, seed=2, displacement=5)
    mask = np.ones(made.fixed.array.shape, bool)
    mask[:, :, 30:] = False
    rng = np.random.default_rng(0)
    results = []
    for noise in (0, 1000):
        images = {}
        for name in ("fixed", "moving"):
            volume = getattr(made, name)
            array = volume.array.astype(np.float32)
            if name == masked:
                array = array + noise * ~mask * rng.normal(size=array.shape).astype(np.float32)
            images[name] = working(replace(volume, array=array), mask if name == masked else None)
        start = np.zeros((*mask.shape, 3), np.float32)
        results.append(refined(images["fixed"], images["moving"], start, 1, SETTINGS)[0])
    # What lies outside the mask is not seen: the field is the same there, too.
    np.testing.assert_allclose(*results, atol=0.01)
    assert np.abs(results[0]).max() > 0.5


def test_a_channel_without_weight_has_no_say_and_others_do():
    made = made_pair((40, 36, 32), 3.0, seed=2, displacement=5)
    noise = np.random.default_rng(0).normal(size=made.fixed.array.shape).astype(np.float32)
    start = np.zeros((*noise.shape, 3), np.float32)
    found = []
    for channels, weights in (((0,), (1.0,)), ((0, 1), (1.0, 0.0)), ((1, 0), (1.0, 1.0))):
        images = [
            WorkingImage(tuple((v.array.astype(np.float32), noise)[i] for i in channels), 3, weights)
            for v in (made.fixed, made.moving)
        ]
        found.append(refined(*images, start, 1, SETTINGS)[0])
    np.testing.assert_array_equal(found[0], found[1])
    # The second channel holds the first one's image: with noise that does not move beside it, it still tells.
    before, after = error(found[2], made)
    assert after < 0.9 * before


def test_nothing_folds_where_the_model_forbids_it():
    made = made_pair((48, 44, 40), 3.0, seed=4, displacement=25)
    wild = replace(
        models.DEFAULT, refinement=Refinement(voxels=Regularisation(diffusion=0.001, volume=0.0, radius=2), rate=0.5)
    )
    assert registration.register_volumes(made.fixed, made.moving, model=wild).field.jacobian_determinant().min() > 0
    free = replace(wild, smallest_jacobian=None)
    assert registration.register_volumes(made.fixed, made.moving, model=free).field.jacobian_determinant().min() < 0


def test_the_number_of_steps_can_be_chosen():
    made = made_pair((48, 44, 40), 3.0, seed=2, displacement=8)
    errors = []
    for steps in (0, 30):
        model = replace(models.DEFAULT, refinement=Refinement(iterations=steps))
        field = registration.register_volumes(made.fixed, made.moving, model=model).field
        errors.append(np.linalg.norm(field.vectors - made.truth.vectors, axis=-1)[made.body].mean())
    assert errors[1] < 0.9 * errors[0]
