"""The PDD network as a whole: where its control points lie, what it finds, what the instance optimisation improves."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from conftest import GEOMETRIES, blobs

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.geometry.grid import Grid
from itk_pdd.geometry.mapping import AffineMapping
from itk_pdd.geometry.resampling import resample
from itk_pdd.io.outputs import OutputError
from itk_pdd.io.volume import Volume
from itk_pdd.models import load
from itk_pdd.models.pddmodel import PddModel
from itk_pdd.network.card import PddCard
from itk_pdd.network.distribution import DisplacementDistribution
from itk_pdd.network.instance import diffusion, optimise
from itk_pdd.network.masking import masked
from itk_pdd.network.pddnet import PddNetwork, dense, descriptors, lattice
from itk_pdd.network.preparation import Intensity
from itk_pdd.network.settings import InstanceOptimisation, PddSettings, Warp
from itk_pdd.registration import register_volumes
from itk_pdd.solver import devices

pytestmark = pytest.mark.usefixtures("one_thread")


def mind_model(*warps: Warp, axes: str = "LPS", spacing: float | None = 2.0, **options) -> PddModel:
    """A model that needs no training, sharp enough to find what is unambiguous."""
    settings = PddSettings(features="mind-ssc", warps=warps or (Warp(0.4, 9, 8),), stride=2, **options)
    network = PddNetwork(settings)
    for search in network.searches:
        search.regularisation.log_temperature.data.fill_(math.log(3000.0))
    return PddModel(network, PddCard("mind", "", settings, Intensity("percentiles", 1, 99), spacing, axes))


GRID = Grid.create((34, 30, 28), (2.0, 2.0, 2.0), (-10.0, 40.0, 7.5))


def textured(grid: Grid, seed: int = 0) -> Volume:
    """Smooth noise, drawn in physical space."""
    image = blobs(grid, seed=seed)
    rng = np.random.default_rng(seed + 100)
    points = grid.points() - grid.centre
    array = image.array.astype(float)
    for _ in range(60):
        wave = rng.normal(size=3) * 0.18
        array += 12 * np.cos(points @ wave + rng.uniform(0, 7))
    return Volume(array.astype(np.float32), grid)


def shifted(volume: Volume, shift: np.ndarray) -> Volume:
    """What is seen at x in the volume is seen at x + shift in the result."""
    grid = volume.grid
    origin = np.asarray(grid.origin) + shift
    return Volume(volume.array, Grid.create(grid.size, grid.spacing, origin, np.asarray(grid.direction)))


def inner(vectors: np.ndarray) -> np.ndarray:
    """Vectors away from the border, where half of what is looked for is missing."""
    n = [size // 4 for size in vectors.shape[:3]]
    return vectors[n[0] : -n[0], n[1] : -n[1], n[2] : -n[2]]


@pytest.mark.parametrize("axes", ["LPS", "SAL"])
@pytest.mark.parametrize("name", ["plain", "oblique"])
def test_a_translation_is_found_in_millimetres(axes, name):
    grid = (
        GRID if name == "plain" else Grid.create(GRID.size, GRID.spacing, GRID.origin, GEOMETRIES["oblique"].direction)
    )
    fixed, shift = textured(grid), np.array([4.0, -6.0, 3.0])
    result = register_volumes(fixed, shifted(fixed, shift), model=mind_model(axes=axes))
    error = np.linalg.norm(inner(result.field.vectors) - shift, axis=-1)
    assert np.median(error) < 1.0 and result.field.grid == grid
    # The reach is 0.4 of half of 60 mm along the shorter axes, and half of it is what is promised.
    assert result.capture_range_mm == pytest.approx(0.5 * 0.4 * 0.5 * 56, rel=0.1)


def test_an_image_matches_itself():
    fixed = textured(GRID)
    result = register_volumes(fixed, fixed, model=mind_model())
    assert np.linalg.norm(result.field.vectors, axis=-1).max() < 0.2  # a tenth of a voxel


def test_it_starts_where_the_initial_transform_says():
    fixed, shift = textured(GRID), np.array([30.0, 0.0, -20.0])  # beyond its reach
    matrix = np.eye(4)
    matrix[:3, 3] = shift - (4.0, -6.0, 3.0)
    moving = shifted(fixed, shift)
    result = register_volumes(fixed, moving, model=mind_model(), initial=AffineMapping(matrix))
    assert np.median(np.linalg.norm(inner(result.field.vectors) - shift, axis=-1)) < 1.0


def test_a_second_warp_comes_closer():
    fixed = textured(GRID)

    def wave(points):
        x, y, z = np.moveaxis(points - GRID.centre, -1, 0)
        return np.stack([3.5 * np.sin(y / 14), 3 * np.cos(z / 12), x / 15], axis=-1)

    # The fixed image is a deformed view of the moving one.
    seen = resample(fixed, GRID, mapping=lambda points: points + wave(points))
    fields = [
        register_volumes(seen, fixed, model=model).field.vectors
        for model in (mind_model(Warp(0.4, 7, 6)), mind_model(Warp(0.4, 7, 6), Warp(0.15, 7, 12)))
    ]
    errors = [np.linalg.norm(inner(field - wave(GRID.points())), axis=-1).mean() for field in fields]
    assert errors[1] < 0.8 * errors[0] and errors[1] < 1.0


def test_what_folds_is_relaxed_as_for_every_model():
    """Unrelated images fold, one search and two composed; where a model says so they are left alone."""
    fixed, moving = textured(GRID, 0), textured(GRID, 1)
    for warps in ((Warp(0.4, 9, 12),), (Warp(0.4, 7, 6), Warp(0.3, 5, 9))):
        model = load(mind_model(*warps, mean_field=False))
        smallest = [
            register_volumes(fixed, moving, model=replace(model, smallest_jacobian=bound))
            .field.jacobian_determinant()
            .min()
            for bound in (None, model.smallest_jacobian)
        ]
        assert smallest[0] < -1 and smallest[1] > 0
    # Nothing is touched where nothing folds.
    moved = shifted(fixed, np.array([4.0, -6.0, 3.0]))
    model = load(mind_model())
    fields = [register_volumes(fixed, moved, model=replace(model, smallest_jacobian=b)).field for b in (None, 0.05)]
    assert fields[0].jacobian_determinant().min() > 0.05 and np.array_equal(fields[0].vectors, fields[1].vectors)


def test_a_limit_of_memory_is_kept_or_refused():
    fixed, model = textured(GRID), mind_model()
    with pytest.raises(RegistrationError, match=r"model mind takes about 0\.\d+ GB .* left of 0\.001 GB: allow more"):
        register_volumes(fixed, fixed, model=model, memory=0.001)
    register_volumes(fixed, fixed, model=model, memory=100.0)
    # Where a GPU holds features and costs, this side needs less; at a coarser spacing both do.
    large = Grid.create((192, 160, 256), 2.0)
    whole, there = (model.needs(large, large, on_host=on_host) for on_host in (True, False))
    assert there.most < 0.5 * whole.most
    assert mind_model(spacing=4.0).needs(large, large).most < 0.5 * whole.most


def test_a_device_that_does_not_work_is_passed_over_or_named(monkeypatch):
    """As for the other models: the rules are those of itk_pdd.solver.devices. No GPU takes part."""
    fixed, moving = textured(GRID), textured(GRID, 1)
    expected = register_volumes(fixed, moving, model=mind_model(), device="cpu").field.vectors

    def broken(device):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(devices, "_device_operations", broken)
    with pytest.warns(RegistrationWarning, match=r"cuda:0 does not work here .*no compiler.*: computing on the CPU"):
        found = register_volumes(fixed, moving, model=mind_model(), device="auto")
    assert np.array_equal(found.field.vectors, expected)
    with pytest.raises(RegistrationError, match=r"device is 'cuda:0', but cuda:0 does not work here"):
        register_volumes(fixed, moving, model=mind_model(), device="cuda:0")


def test_what_a_model_cannot_use_is_told():
    fixed = textured(GRID)
    with pytest.raises(RegistrationError, match=r"spacing is 3\.0, but model mind works at the spacing"):
        register_volumes(fixed, fixed, model=mind_model(), spacing=3.0)
    with pytest.raises(RegistrationError, match="2 channels, but model mind"):
        register_volumes((fixed, fixed), (fixed, fixed), model=mind_model())
    with pytest.raises(RegistrationError, match="fixed has 1 channels and moving 2"):
        register_volumes(fixed, (fixed, fixed), model=mind_model())
    with pytest.raises(RegistrationError, match="channel_weights are 2 numbers, expected one for each channel: 1"):
        register_volumes(fixed, fixed, model=mind_model(), channel_weights=(1.0, 0.5))
    flat = Volume(fixed.array[0], Grid.create(GRID.size[:2], 2.0))
    with pytest.raises(RegistrationError, match="works on 3-D images"):
        register_volumes(flat, flat, model=mind_model())
    small = Volume(fixed.array[:3], Grid.create((*GRID.size[:2], 3), 2.0))
    with pytest.raises(RegistrationError, match="expected at least 4 along each axis"):
        register_volumes(small, small, model=mind_model())


def test_a_lattice_reaches_as_far_in_images_of_other_sizes():
    settings = PddSettings(warps=(Warp(0.5, 5, 8),), stride=3, extent=(48.0, 48.0, 48.0))
    trained, larger = (lattice(settings, settings.warps[0], size) for size in ((48, 48, 48), (48, 96, 48)))
    assert trained.control.shape == (8, 8, 8) and larger.control.shape == (8, 16, 8)
    assert larger.displacements == trained.displacements
    assert trained.displacements.reach == pytest.approx([0.5 * 24 / 3] * 3)
    # Features and control points lie symmetrically in the image.
    for along in (*trained.features, *trained.positions(), *larger.positions()):
        assert float(along[0] + along[-1]) == pytest.approx(47 if float(along[-1]) < 48 else 95)


def test_dense_fields_go_through_the_control_points():
    layout = lattice(PddSettings(stride=2, warps=(Warp(0.4, 3, 5),)), Warp(0.4, 3, 5), (20, 24, 22))
    grid = torch.stack(torch.meshgrid(*layout.positions(), indexing="ij"), dim=-1)
    voxels = [torch.arange(n, dtype=torch.float64) for n in (20, 24, 22)]
    found = dense(grid * 2 - 1, layout.positions(), voxels)
    wanted = torch.stack(
        torch.meshgrid(*(v.clamp(p[0], p[-1]) for v, p in zip(voxels, layout.positions(), strict=True)), indexing="ij"),
        -1,
    )
    torch.testing.assert_close(found, wanted * 2 - 1)


@pytest.mark.parametrize("stride", [2, 3])
def test_descriptors_stand_at_their_positions(stride):
    image = torch.from_numpy(textured(Grid.create((21, 20, 19), 1.0)).array)
    layout = lattice(PddSettings(stride=stride), Warp(0.4, 3, 4), image.shape)
    found = descriptors(image, layout.features, stride=stride)
    mirrored = descriptors(image.flip(0), layout.features, stride=stride)
    # Positions are symmetric, so that the mean over the channels of a mirrored image is mirrored.
    torch.testing.assert_close(found.mean(0).flip(0), mirrored.mean(0), rtol=1e-3, atol=1e-4)


def test_only_a_block_is_searched():
    network = PddNetwork(PddSettings(features="mind-ssc", warps=(Warp(0.3, 3, 6),), stride=2, mean_field=False))
    image = torch.from_numpy(textured(GRID).array)[None]
    features = network.features(image)
    layout = network.lattice(image.shape[1:])
    whole = network.search(features, features.flip(1), layout)
    block = (slice(1, 4), slice(0, 6), slice(2, 5))
    part = network.search(features, features.flip(1), layout, block=block)
    torch.testing.assert_close(part.costs, whole.costs[block])
    torch.testing.assert_close(part.mean(), whole.mean()[block])


def test_instance_optimisation_makes_probable_and_smooth():
    """Where two displacements are about as probable, neighbours decide; where one is, it is kept."""
    steps = [torch.arange(-4.0, 5.0, dtype=torch.float64)] * 3
    positions = [torch.arange(6.0, dtype=torch.float64) * 2] * 3
    grid = torch.stack(torch.meshgrid(*steps, indexing="ij"), dim=-1)
    cost = (grid - torch.tensor([0.0, 2.0, -1.0])).square().sum(-1) / 12  # components z, y, x
    costs = cost.expand(6, 6, 6, 9, 9, 9).clone().float()
    generator = torch.Generator().manual_seed(0)
    costs += 0.15 * torch.rand(costs.shape, generator=generator)
    distribution = DisplacementDistribution(costs, temperature=20.0, positions=positions, displacements=steps)
    start = grid.reshape(-1, 3).float()[costs.flatten(3).argmin(-1)].flip(-1)
    found = optimise(distribution, start, InstanceOptimisation(40, diffusion=1.5, rate=0.04), half=10.0)
    truth = torch.tensor([-1.0, 2.0, 0.0])
    assert (found - truth).norm(dim=-1).mean() < 0.5 * (start - truth).norm(dim=-1).mean()
    assert diffusion(found, (2.0,) * 3) < 0.2 * diffusion(start, (2.0,) * 3)
    # Nothing pulls a field that is probable and smooth already.
    sharp = DisplacementDistribution(
        cost.expand(6, 6, 6, 9, 9, 9).clone().float(), temperature=20.0, positions=positions, displacements=steps
    )
    kept = optimise(sharp, sharp.mean(), InstanceOptimisation(20), half=10.0)
    assert (kept - truth).norm(dim=-1).max() < 0.25


def test_diffusion_has_the_units_of_the_paper():
    """1.5 times it is what the paper adds for 32 control points over an extent from -1 to 1."""
    generator = torch.Generator().manual_seed(0)
    normalised = 0.1 * torch.randn(32, 32, 32, 3, generator=generator)
    paper = sum(normalised.diff(dim=axis).square().mean() for axis in range(3))
    voxels = 93.0  # from -1 to 1
    found = diffusion(normalised * voxels / 2, (voxels / 31,) * 3)
    torch.testing.assert_close(found, paper)


def test_settings_and_cards_that_make_no_sense(tmp_path):
    for make, message in (
        (lambda: Warp(0.4, 14, 32), "displacements is 14, expected an odd number"),
        (lambda: Warp(-1, 15, 32), "reach is -1"),
        (lambda: Warp(0.4, 15, 1), "points is 1"),
        (lambda: PddSettings(features="sift"), "features is 'sift'"),
        (lambda: PddSettings(extent=(1, 2)), "expected three lengths"),
        (lambda: InstanceOptimisation(-1), "expected none below 0"),
        (lambda: mind_model(axes="LPX"), "axes is 'LPX'"),
        (lambda: mind_model(spacing=0.0), r"spacing is 0\.0 mm"),
    ):
        with pytest.raises(RegistrationError, match=message):
            make()


def test_folders_are_read_back_and_faults_are_named(tmp_path):
    model = mind_model(Warp(0.4, 5, 6), Warp(0.2, 3, 8))
    model.write(tmp_path)
    again = PddModel.from_folder(tmp_path)
    assert again.card == model.card
    with pytest.raises(OutputError, match=r"the folder .*card\.json.model cannot be made \(not a directory\)"):
        model.write(tmp_path / "card.json" / "model")
    fixed, moving = textured(GRID, 0), textured(GRID, 1)
    one, other = (register_volumes(fixed, moving, model=m).field.vectors for m in (model, tmp_path))
    assert np.array_equal(one, other)
    text = (tmp_path / "card.json").read_text()
    for old, new, message in (
        ('"schema": 1', '"schema": 99', r"written by a newer version of itk_pdd \(schema 99"),
        ('"kind": "pdd"', '"kind": "oracle"', "kind is 'oracle'"),
        ('"stride": 2', '"strode": 2', "is no complete model card"),
        ('"features": "mind-ssc"', '"features": "obelisk"', "card and weights do not belong together"),
    ):
        (tmp_path / "card.json").write_text(text.replace(old, new))
        with pytest.raises(RegistrationError, match=message):
            register_volumes(fixed, moving, model=tmp_path)
    (tmp_path / "card.json").write_text(text)
    content = (tmp_path / "weights.safetensors").read_bytes()
    (tmp_path / "weights.safetensors").write_bytes(content[:-3])
    with pytest.raises(RegistrationError, match=r"weights\.safetensors is damaged"):
        register_volumes(fixed, moving, model=tmp_path)


@pytest.mark.parametrize("side", ["fixed", "moving"])
def test_what_a_mask_leaves_out_pulls_nothing(side):
    """Half of the image moves the other way: with a mask of the other half nobody notices."""
    shift = np.array([6.0, 0.0, 0.0])
    moving = textured(GRID)
    # What is at x in the fixed image is at x + shift in the moving one, in the half of small y; else at x - shift.
    right, wrong = (resample(moving, GRID, mapping=lambda points, by=by: points + by) for by in (shift, -shift))
    near = GRID.points()[..., 1] < GRID.centre[1]
    fixed = Volume(np.where(near, right.array, wrong.array), GRID)
    mask = Volume(near, GRID)
    model = mind_model(Warp(0.4, 11, 8))
    found = register_volumes(fixed, moving, model=model, **{f"{side}_mask": mask}).field.vectors[..., 0]
    plain = register_volumes(fixed, moving, model=model).field.vectors[..., 0]
    inner = (slice(6, -6), slice(None), slice(8, -8))
    seen, hidden = near[inner], ~near[inner]
    assert abs(found[inner][seen].mean() - 6.0) < 0.7
    # Nothing is known of the other half but what the neighbours say.
    assert plain[inner][hidden].mean() < -3.0
    assert found[inner][hidden].mean() > 0.5


def test_masked_costs_by_hand():
    generator = torch.Generator().manual_seed(0)
    costs = torch.rand(2, 2, 2, 3, 3, 3, generator=generator)
    positions = [torch.tensor([1.0, 3.0], dtype=torch.float64)] * 3
    offsets = [torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)] * 3
    fixed, moving = torch.ones(5, 5, 5), torch.ones(5, 5, 5)
    fixed[3] = 0
    moving[:, :, 4] = 0
    found = masked(costs, (fixed, moving), positions, offsets)
    assert (found[1] == 0).all()  # all control points at z = 3
    torch.testing.assert_close(found[0, :, 0], costs[0, :, 0])  # x = 1 reaches 0 to 2
    there = costs[0, :, 1]  # x = 3 reaches 4, which is masked
    torch.testing.assert_close(found[0, :, 1, ..., :2], there[..., :2])
    mean = there[..., :2].mean(dim=(1, 2, 3), keepdim=True).expand_as(there[..., 2:])
    torch.testing.assert_close(found[0, :, 1, ..., 2:], mean)
