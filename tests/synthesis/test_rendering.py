import numpy as np
import pytest
from scipy import ndimage

from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import (
    AbdomenLabel,
    Acquisition,
    Anatomy,
    Contrast,
    TissueMap,
    ct_contrast,
    random_acquisition,
    random_contrast,
    render,
    render_labels,
)

GRID = Grid.create((48, 40, 36), 6.0)
PERFECT = Acquisition(blur=0, noise=0)


def plain(*means):
    table = np.zeros(256, dtype=np.float32)
    table[: len(means)] = means
    return Contrast(table, np.zeros((3, 256), dtype=np.float32))


def rng():
    return np.random.default_rng(0)


def test_partial_volume_mixes_intensities():
    shape = GRID.shape
    tissues = TissueMap(np.full(shape, 1, np.uint8), np.full(shape, 2, np.uint8), np.full(shape, 0.3, np.float32))
    image = render(tissues, GRID, plain(0, 10, 20), PERFECT, rng())
    assert image.array.dtype == np.float32 and image.grid == GRID
    np.testing.assert_allclose(image.array, 13.0, atol=1e-5)


def test_ct_of_an_abdomen_has_realistic_values():
    tissues = Anatomy(GRID, 1).sample()
    image = render(tissues, GRID, ct_contrast(rng()), Acquisition(), rng()).array
    for label, value in (("LIVER", 105), ("VISCERAL_FAT", -98), ("LUNG", -830), ("BACKGROUND", -1000), ("MUSCLE", 58)):
        inside = ndimage.binary_erosion(tissues.labels == AbdomenLabel[label])
        assert image[inside].mean() == pytest.approx(value, abs=25), label
        assert 3 < image[inside].std() < 90


def flat(value=100.0):
    return TissueMap.from_labels(np.ones(GRID.shape, np.uint8)), plain(0, value)


def test_noise_has_the_strength_asked_for():
    tissues, contrast = flat()
    image = render(tissues, GRID, contrast, Acquisition(blur=0, noise=3.0, noise_grain=0.7), rng()).array
    assert image.std() == pytest.approx(3.0, rel=0.02) and image.mean() == pytest.approx(100, abs=0.1)


def test_bias_field_is_smooth_and_multiplies():
    tissues, contrast = flat()
    image = render(tissues, GRID, contrast, Acquisition(blur=0, noise=0, bias=0.2), rng()).array
    assert 0.05 < np.log(image / 100).std() < 0.4
    assert max(np.abs(np.diff(np.log(image), axis=a)).max() for a in range(3)) < 0.1


def test_gamma_keeps_the_ends_and_bends_the_middle():
    labels = np.arange(3, dtype=np.uint8).repeat(12)[:, None, None] * np.ones(GRID.shape, np.uint8)
    image = render(TissueMap.from_labels(labels), GRID, plain(0, 50, 100), Acquisition(blur=0, noise=0, gamma=2), rng())
    np.testing.assert_allclose(image.array[[0, 15, 35], 0, 0], [0, 25, 100], atol=1e-3)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_blur_along_their_axis_and_shift_nothing(axis):
    centre = np.array([21.3, 17.8, 16.1])
    z, y, x = np.meshgrid(*[np.arange(n) for n in GRID.shape], indexing="ij")
    index = np.stack([x, y, z], axis=-1)
    ball = np.linalg.norm(index - centre, axis=-1) < 7.5
    tissues = TissueMap.from_labels(ball.astype(np.uint8))
    sharp = render(tissues, GRID, plain(0, 1), PERFECT, rng()).array
    thick = render(tissues, GRID, plain(0, 1), Acquisition(blur=0, noise=0, thickness=3, axis=axis), rng()).array

    def middle(image):
        return (index * image[..., None]).sum(axis=(0, 1, 2)) / image.sum()

    np.testing.assert_allclose(middle(thick), middle(sharp), atol=0.06)
    assert thick.sum() == pytest.approx(sharp.sum(), rel=0.01)
    slopes = [np.abs(np.diff(thick, axis=a)).max() for a in (2, 1, 0)]
    assert slopes[axis] < 0.6 * min(s for a, s in enumerate(slopes) if a != axis)


def test_random_contrasts_differ_and_texture_sticks_to_the_tissue_as_asked():
    first, second = random_contrast(np.random.default_rng(1)), random_contrast(np.random.default_rng(2))
    assert np.abs(np.corrcoef(first.mean, second.mean)[0, 1]) < 0.3
    tissues = Anatomy(GRID, 3).sample()
    textured = Contrast(np.zeros(256, np.float32), np.ones((3, 256), np.float32))
    loose = Contrast(textured.mean, textured.texture, fresh=1.0)
    looks = [(textured, 1), (textured, 2), (loose, 1), (loose, 2)]
    images = [render(tissues, GRID, look, PERFECT, np.random.default_rng(seed)).array for look, seed in looks]
    np.testing.assert_array_equal(images[0], images[1])
    assert abs(np.corrcoef(images[2].ravel(), images[3].ravel())[0, 1]) < 0.2


def test_render_labels_is_determined_by_its_seed():
    labels = Anatomy(GRID, 1).labels()
    images = [render_labels(labels, seed=seed).array for seed in (1, 1, 2)]
    assert images[0].tobytes() == images[1].tobytes() != images[2].tobytes()
    assert images[0].dtype == np.float32 and np.isfinite(images[0]).all()
    flat_labels = Volume(labels.array[10].astype(np.int16), Grid.create((48, 40), 6.0))
    assert render_labels(flat_labels, seed=0).array.shape == (40, 48)


def test_random_acquisitions_are_valid_in_two_dimensions():
    source = rng()
    drawn = [random_acquisition(source, 2) for _ in range(40)]
    assert {a.axis for a in drawn} == {0, 1} and any(a.thickness > 1 for a in drawn)


def test_unusable_requests_are_refused():
    with pytest.raises(RegistrationError, match="labels are float32"):
        render_labels(Volume(np.zeros(GRID.shape, np.float32), GRID), seed=0)
    with pytest.raises(RegistrationError, match="from 0 to 300"):
        array = np.zeros(GRID.shape, np.int16)
        array[0, 0, 0] = 300
        render_labels(Volume(array, GRID), seed=0)
    with pytest.raises(RegistrationError, match="noise of the acquisition is -1"):
        Acquisition(noise=-1)
    with pytest.raises(RegistrationError, match="axis of the acquisition is 2"):
        flat_grid = Grid.create((8, 8), 1.0)
        tissues = TissueMap.from_labels(np.zeros((8, 8), np.uint8))
        render(tissues, flat_grid, plain(0), Acquisition(thickness=2, axis=2), rng())
    with pytest.raises(RegistrationError, match="tissues have shape"):
        render(flat()[0], Grid.create((4, 4, 4)), plain(0), PERFECT, rng())
