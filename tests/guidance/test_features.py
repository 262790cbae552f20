"""A user's own features: files and callables, what they take, and that they are compared."""

from __future__ import annotations

import json
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

import itk_pdd
from itk_pdd import registration
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.guidance.guidance import read_guidance
from itk_pdd.io.volume import Volume
from itk_pdd.network.features import FeatureCard, load_features
from itk_pdd.solver.feature_maps import feature_maps
from itk_pdd.solver.problem import Problem
from itk_pdd.synthesis import make_pair


class Edges(nn.Module):
    """Two layers: smoothed intensities and their differences, at half the resolution."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        smooth = functional.avg_pool2d(x, 2, 2)
        wide = functional.avg_pool2d(x, 5, 1, 2)[:, :, ::2, ::2]
        return [smooth, torch.cat([smooth - wide, wide], 1)]


class Layered(nn.Module):
    """The newer signature of itk-impact: exactly as many layers as are asked for."""

    def forward(
        self, x: torch.Tensor, nb_layers: torch.Tensor, stats: torch.Tensor, direction: torch.Tensor
    ) -> list[torch.Tensor]:
        return [(x - stats[2]) / stats[3]] * int(nb_layers)


@pytest.fixture(scope="module")
def pair() -> SimpleNamespace:
    made = make_pair((100, 90), 2.0, seed=6, displacement=14)
    return SimpleNamespace(made=made, problem=Problem((made.fixed,), (made.moving,)))


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("networks") / "edges.pt"
    torch.jit.script(Edges()).save(str(path))
    return path


def solved(pair: SimpleNamespace, **known) -> np.ndarray:
    made = pair.made
    guidance = read_guidance((made.fixed.grid, made.moving.grid), **known)
    problem = Problem((made.fixed,), (made.moving,), guidance=guidance)
    return registration.solve(problem, judged=False).field.vectors


def test_a_file_gives_what_the_callable_gives(pair, script) -> None:
    card = {"low": -200, "high": 300, "multiple": 2}
    found = solved(pair, features=str(script), feature_card=card)
    np.testing.assert_array_equal(found, solved(pair, features=Edges(), feature_card=card))
    made = pair.made
    start = np.linalg.norm(made.truth.vectors, axis=-1)[made.body].mean()
    assert np.linalg.norm(found - made.truth.vectors, axis=-1)[made.body].mean() < 0.5 * start


def test_features_alone_that_say_nothing_move_nothing(pair) -> None:
    card = {"alone": True, "weight": 1.0, "descent": 1e6, "values": "probabilities", "background": False}
    found = solved(pair, features=torch.zeros_like, feature_card=card)
    assert np.abs(found).max() < 1.0  # half a voxel, while the truth moves by 14 mm


def test_strides_grids_and_patches(script) -> None:
    grid = Grid.create((45, 37), 1.5, (3.0, -2.0))
    volume = Volume(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid)
    whole, where = load_features(script, {"multiple": 2}).features([volume], 1.5)
    assert whole.shape == (1, 19, 23, 3)
    assert where.same_space(grid.blocks(2))
    parts, _ = load_features(script, {"multiple": 2, "patch": 24}).features([volume], 1.5)
    # The answer differs where a patch ends only.
    assert np.median(np.abs(parts - whole)) < 1e-6
    first, _ = load_features(script, {"multiple": 2, "layers": [0]}).features([volume], 1.5)
    np.testing.assert_allclose(first, whole[..., :1], atol=1e-6)


def test_slices_of_a_network_of_2d_images() -> None:
    grid = Grid.create((12, 10, 6), (1.0, 1.0, 2.0))
    volume = Volume(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid)
    card = {"dimension": 2, "channels": 3, "spacing": 1.0}
    found, where = load_features(lambda x: x[:, :, ::2, ::2], card).features([volume], 1.0)
    assert found.shape == (12, 5, 6, 3)
    assert where.spacing == pytest.approx((2.0, 2.0, 1.0))


def test_the_signature_of_newer_networks(tmp_path) -> None:
    path = tmp_path / "layered.pt"
    torch.jit.script(Layered()).save(str(path))
    grid = Grid.create((12, 10), 1.0)
    volume = Volume(np.random.default_rng(0).normal(5, 3, grid.shape).astype(np.float32), grid)
    (tmp_path / "layered.json").write_text(json.dumps({"layers": [1]}))
    found, _ = load_features(path).features([volume], 1.0)
    np.testing.assert_allclose(found[0, ..., 0], (volume.array - volume.array.mean()) / volume.array.std(), atol=2e-2)


def test_many_features_are_reduced_and_codes_have_room() -> None:
    grid = Grid.create((12, 10), 1.0)
    rng = np.random.default_rng(0)
    base = rng.normal(size=(2, 1, 10, 12, 3)).astype(np.float32)
    mixed = base @ rng.normal(size=(3, 80)).astype(np.float32)
    own, other = feature_maps((mixed[0], grid), (mixed[1], grid), FeatureCard(), grid, None)
    assert own.probabilities.shape[-1] == 32
    assert sum(own.bits) <= 64
    apart = np.linalg.norm(mixed[0] - mixed[1], axis=-1).ravel()
    kept = np.linalg.norm(own.probabilities - other.probabilities, axis=-1).ravel()
    assert np.corrcoef(apart, kept)[0, 1] > 0.95


@pytest.mark.parametrize(
    ("features", "card", "told"),
    [
        ("absent.pt", None, "there is no file absent.pt"),
        (3, None, "features is a int, expected a file or a callable"),
        (Edges(), {"strides": 2}, "feature_card has the entry 'strides', expected some of spacing"),
        (Edges(), {"spacing": -1}, "spacing is -1, expected a number above 0"),
        (Edges(), {"values": "labels"}, "values is 'labels', expected"),
        (Edges(), "absent.json", r"feature_card: absent.json cannot be read as JSON \(no such file or directory\)"),
        (Edges(), {"layers": 3}, "layers is 3, expected a list of numbers"),
        (Edges(), {"multiple": 2.5}, "multiple is 2.5, expected a whole number from 1 on"),
        (Edges(), {"to": [0]}, r"to is \(0,\), expected two numbers"),
        (Edges(), {"mean": "images"}, "mean is 'images', expected 'image' or a number"),
        (Edges(), {"std": 0}, "std is 0, expected 'image' or a number above 0"),
        (Edges(), {"descent": "no"}, "descent is 'no', expected a number from 0 on"),
        (Edges(), {"dimension": 3}, "is for 3-D images, but these are 2-D"),
        (nn.Conv3d(1, 2, 3), None, r"cannot look at an image of .* and 1 channel \(.*\): check the dimension"),
        (lambda x: x * float("nan"), None, "gives NaN or infinite features"),
        (lambda x: x[0, 0], None, r"gives the shape .*, expected features of the shape"),
        (lambda x: (_ for _ in ()).throw(MemoryError()), None, "needs more memory than is free"),
        (
            lambda x: (_ for _ in ()).throw(RuntimeError("DefaultCPUAllocator: not enough memory")),
            None,
            "needs more memory than is free for an image of .*: name a smaller patch",
        ),
    ],
)
def test_bad_input_is_one_sentence(pair, features, card, told) -> None:
    with pytest.raises(RegistrationError, match=told) as error:
        solved(pair, features=features, feature_card=card)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dimension", [2, 3])
def test_an_onnx_file_of_one_size_gives_what_the_network_gives(tmp_path, dimension) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    pool = (functional.avg_pool2d, functional.avg_pool3d)[dimension - 2]

    class Halved(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return pool(x, 2)

    path = tmp_path / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(Halved(), (torch.zeros(1, 1, *[16] * dimension),), str(path), dynamo=False)
    grid = Grid.create((20, 12, 16)[:dimension], 1.0)
    volume = Volume(np.random.default_rng(0).normal(size=grid.shape).astype(np.float32), grid)
    found, expected = (load_features(given, {"multiple": 2}).features([volume], 1.0) for given in (path, Halved()))
    np.testing.assert_allclose(found[0], expected[0], atol=1e-5)
    assert found[1].same_space(expected[1])
    other = Grid.create((8,) * (5 - dimension), 1.0)
    told = f"is for {dimension}-D images, but these are {5 - dimension}-D"
    with pytest.raises(RegistrationError, match=told) as error:
        load_features(path).features([Volume(np.zeros(other.shape, np.float32), other)], 1.0)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("what", ["module", "state", "text"])
def test_only_torchscript_is_loaded(tmp_path, what) -> None:
    path = tmp_path / "network.pt"
    if what == "text":
        path.write_text("no network")
    else:
        torch.save(Edges() if what == "module" else nn.Conv2d(1, 2, 3).state_dict(), path)
    with pytest.raises(RegistrationError, match=r"network\.pt is no TorchScript file \(a pickled module"):
        load_features(path)


def test_the_object_and_the_command_take_features(pair, script, tmp_path) -> None:
    import SimpleITK
    from click.testing import CliRunner
    from itk_pdd.cli.register import main

    made = pair.made
    card = {"low": -200, "high": 300, "multiple": 2}
    (tmp_path / "card.json").write_text(json.dumps(card))
    images = {name: getattr(made, name).to_simpleitk() for name in ("fixed", "moving")}
    for name, image in images.items():
        SimpleITK.WriteImage(image, str(tmp_path / f"{name}.nrrd"))
    method = itk_pdd.PDDRegistrationMethod.New(
        fixed_image=images["fixed"], moving_image=images["moving"], features=str(script), feature_card=card
    )
    expected = SimpleITK.GetArrayFromImage(method.GetDisplacementField())
    done = CliRunner().invoke(
        main,
        [str(tmp_path / "fixed.nrrd"), str(tmp_path / "moving.nrrd"), "--features", str(script), "--feature-card",
         str(tmp_path / "card.json"), "-o", str(tmp_path / "field.nrrd"), "--record", str(tmp_path / "run.json")],
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    field = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(tmp_path / "field.nrrd")))
    np.testing.assert_allclose(field, expected, atol=1e-4)
    assert json.loads((tmp_path / "run.json").read_text())["inputs"]["features"]["sha256_of"] == "file"
