import numpy as np
import pytest

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.field import DisplacementField
from itk_pdd.geometry.grid import Grid
from itk_pdd.synthesis import AbdomenLabel, Anatomy, abdomen_labels, label_names, random_shapes

GRID = Grid.create((64, 52, 48), 5.0, (-100, 40, 7))
ORGANS = (
    AbdomenLabel.SPLEEN,
    AbdomenLabel.RIGHT_KIDNEY,
    AbdomenLabel.LEFT_KIDNEY,
    AbdomenLabel.LIVER,
    AbdomenLabel.STOMACH,
    AbdomenLabel.AORTA,
    AbdomenLabel.INFERIOR_VENA_CAVA,
    AbdomenLabel.BONE,
    AbdomenLabel.LUNG,
    AbdomenLabel.BLADDER,
    AbdomenLabel.COLON,
)


def centroid(labels, label):
    return labels.grid.points()[labels.array == label].mean(axis=0) - labels.grid.centre


def test_a_patient_has_the_organs_in_their_places():
    for seed in range(3):
        labels = abdomen_labels(GRID, seed=seed)
        assert labels.array.dtype == np.uint8 and labels.array.shape == GRID.shape
        counts = np.bincount(labels.array.ravel(), minlength=64)
        for organ in ORGANS:
            assert counts[organ] > 20, organ.name
        assert counts[AbdomenLabel.LIVER] > 2 * counts[AbdomenLabel.SPLEEN]
        assert 0.2 < counts[0] / counts.sum() < 0.6
        # x runs to the left, y to the back, z to the head.
        assert centroid(labels, AbdomenLabel.LIVER)[0] < -20 < 20 < centroid(labels, AbdomenLabel.SPLEEN)[0]
        assert centroid(labels, AbdomenLabel.RIGHT_KIDNEY)[0] < 0 < centroid(labels, AbdomenLabel.LEFT_KIDNEY)[0]
        assert centroid(labels, AbdomenLabel.BLADDER)[2] < -60 < 30 < centroid(labels, AbdomenLabel.LUNG)[2]
        assert centroid(labels, AbdomenLabel.SPINAL_CANAL)[1] > 20 > centroid(labels, AbdomenLabel.STOMACH)[1]


@pytest.mark.parametrize("make", [abdomen_labels, random_shapes])
def test_seed_determines_every_byte(make):
    grid = Grid.create((40, 30, 20), 8.0)
    assert make(grid, seed=1).array.tobytes() == make(grid, seed=1).array.tobytes()
    assert np.mean(make(grid, seed=1).array != make(grid, seed=2).array) > 0.1


@pytest.mark.parametrize("make", [abdomen_labels, random_shapes])
def test_two_dimensions_and_odd_grids(make):
    for grid in (
        Grid.create((70, 50), (4.0, 4.5)),
        Grid.create((64, 64, 9), (5.0, 5.0, 20.0)),
        Grid.create((33, 61, 20), (10.0, 3.0, 7.0)),
    ):
        labels = make(grid, seed=3).array
        assert labels.shape == grid.shape
        assert len(np.unique(labels)) >= 6


def test_shapes_fill_the_image_with_many_labels():
    grid = Grid.create((40, 40, 40), 2.0)
    maps = [random_shapes(grid, seed=seed).array for seed in range(6)]
    assert all(len(np.unique(m)) >= 8 for m in maps)
    # Some have an outline with background around, and no label fills everything.
    assert any((m == 0).mean() > 0.05 for m in maps)
    assert all(np.bincount(m.ravel()).max() < 0.8 * m.size for m in maps)
    assert set(np.unique(maps)) <= set(label_names("shapes"))


@pytest.mark.parametrize("kind", ["abdomen", "shapes"])
def test_storage_of_the_axes_does_not_matter(kind):
    """Flipped and permuted axes index the same patient in the same place."""
    grid = Grid.create((44, 36, 30), (7.0, 6.0, 8.0), (12, -7, 3))
    axes = np.eye(3)[:, [2, 0, 1]] * [1, -1, 1]
    start = grid.to_physical([43, 0, 0])
    stored = Grid.create((30, 44, 36), (8.0, 7.0, 6.0), start, axes)
    straight = Anatomy(grid, 5, kind).labels().array
    turned = Anatomy(stored, 5, kind).labels().array
    back = np.moveaxis(turned, (0, 1, 2), (1, 2, 0))[:, :, ::-1]
    assert back.shape == straight.shape
    assert np.mean(back != straight) < 1e-3


@pytest.mark.parametrize("kind", ["abdomen", "shapes"])
def test_anatomy_does_not_depend_on_where_it_is_sampled(kind):
    anatomy = Anatomy(GRID, 2, kind)
    whole = anatomy.labels().array
    part = Grid.create((20, 25, 14), GRID.spacing, GRID.to_physical((30, 10, 20)))
    np.testing.assert_array_equal(anatomy.labels(part).array, whole[20:34, 10:35, 30:50])
    shifted = DisplacementField(np.full((*GRID.shape, 3), (15.0, -10.0, 5.0), dtype=np.float32), GRID)
    moved = anatomy.sample(GRID, shifted)
    # Three voxels along x, minus two along y, one along z; rounding may tip a voxel whose centre lies on a surface.
    assert np.mean(moved.labels[:-1, 2:, :-3] != whole[1:, :-2, 3:]) < 1e-4
    still = anatomy.sample()
    np.testing.assert_allclose(moved.texture[:, :-1, 2:, :-3], still.texture[:, 1:, :-2, 3:], atol=1e-2)


def test_finer_voxels_show_the_same_patient():
    grid = Grid.create((32, 26, 24), 10.0)
    anatomy = Anatomy(grid, 4, "abdomen")
    coarse = anatomy.labels().array
    fine = anatomy.labels(grid.with_spacing(10.0 / 3)).array[1::3, 1::3, 1::3]
    # The centres coincide; only the width of partial volume differs.
    assert np.mean(fine != coarse) < 0.02


def test_shares_are_at_most_half_and_texture_is_normal():
    tissues = Anatomy(GRID, 4, "abdomen").sample()
    assert tissues.share.min() >= 0 and tissues.share.max() <= 0.5
    assert (tissues.share > 0.05).mean() > 0.05
    assert tissues.texture.shape == (3, *GRID.shape)
    assert np.abs(tissues.texture.std(axis=(1, 2, 3)) - 1).max() < 0.35


def test_names():
    assert label_names("abdomen")[6] == "liver" and label_names("abdomen")[9] == "inferior vena cava"
    assert set(np.unique(abdomen_labels(GRID, seed=1).array)) <= set(label_names("abdomen"))


def test_unusable_requests_are_refused():
    with pytest.raises(RegistrationError, match="kind is 'brain'"):
        Anatomy(GRID, 0, "brain")
    flat = Grid.create((10, 10), 1.0)
    with pytest.raises(RegistrationError, match="2 dimensions"):
        Anatomy(GRID, 0).sample(flat)
    other = Grid.create((10, 10, 10), 1.0)
    field = DisplacementField(np.zeros((10, 10, 10, 3), dtype=np.float32), other)
    with pytest.raises(RegistrationError, match="displacement lies on"):
        Anatomy(GRID, 0).sample(GRID, field)
