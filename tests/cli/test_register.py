"""pdd-register from argument to exit code; the engine is a stand-in, everything else is real."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import re
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner, Result
from conftest import GEOMETRIES, blobs, to_itk, wave
from itk_pdd.cli.register import main

import itk_pdd
from itk_pdd.errors import RegistrationError
from itk_pdd.geometry.grid import Grid
from itk_pdd.io.fields import read_field
from itk_pdd.io.volume import Volume
from itk_pdd.synthesis import make_pair

GRID, FLAT = GEOMETRIES["oblique"], GEOMETRIES["oblique 2-D"]


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def save(volume: Volume, path: Path) -> Path:
    SimpleITK.WriteImage(volume.to_simpleitk(), str(path))
    return path


@pytest.fixture
def pair(tmp_path: Path) -> SimpleNamespace:
    """Two files in a folder of their own, and an empty folder for outputs."""
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    fixed = save(blobs(GRID), tmp_path / "in" / "fixed.nii.gz")
    moving = save(blobs(GRID, seed=1, dtype=np.int16), tmp_path / "in" / "moving.nrrd")
    return SimpleNamespace(fixed=fixed, moving=moving, folder=tmp_path / "in", out=tmp_path / "out")


def read(path: Path) -> np.ndarray:
    return SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path)))


def test_everything_is_written(engine, pair) -> None:
    labels = np.zeros(GRID.shape, np.int32)
    labels[3:7, 4:9, 5:11] = 70000
    label_file = save(Volume(labels, GRID), pair.folder / "labels.nii.gz")
    result = run(
        pair.fixed, pair.moving, "-o", pair.out / "u.nii.gz", "--transform", pair.out / "t.h5",
        "--warped", pair.out / "w.mha", "--inverse", pair.out / "v.nrrd",
        "--moving-labels", label_file, "--warped-labels", pair.out / "l.nii.gz",
    )  # fmt: skip
    assert (result.exit_code, result.output) == (0, ""), "quiet in a pipe"
    assert sorted(p.name for p in pair.out.iterdir()) == ["l.nii.gz", "t.h5", "u.nii.gz", "v.nrrd", "w.mha"]
    field = read_field(pair.out / "u.nii.gz")
    np.testing.assert_allclose(field.vectors, wave(GRID).vectors, atol=1e-5)
    np.testing.assert_array_equal(read_field(pair.out / "t.h5").vectors, field.vectors)
    warped = SimpleITK.ReadImage(str(pair.out / "w.mha"))
    assert warped.GetPixelID() == SimpleITK.sitkInt16
    moved_labels = read(pair.out / "l.nii.gz")
    assert moved_labels.dtype == np.int32
    assert set(np.unique(moved_labels)) == {0, 70000}
    inverse = read_field(pair.out / "v.nrrd")
    inner = GRID.points()[3:-3, 3:-3, 3:-3]
    error = np.linalg.norm(field(inverse(inner)) - inner, axis=-1)
    assert error.max() < 0.02


def test_options_reach_the_engine(engine, pair) -> None:
    mask = save(Volume(np.ones(GRID.shape, np.uint8), GRID), pair.folder / "mask.nii.gz")
    SimpleITK.WriteTransform(SimpleITK.TranslationTransform(3, (3.0, 2.0, 1.0)), str(pair.folder / "a.mat"))
    result = run(
        pair.fixed, pair.moving, "-o", pair.out / "u.mha", "--fixed-mask", mask, "--moving-mask", mask,
        "--initial-transform", pair.folder / "a.mat", "--model", "m", "--device", "cpu", "--threads", 1, "--seed", 9,
        "--spacing", 2.5, "--smoothness", 2, "--memory", 1.5,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (call,) = engine.calls
    assert (call.model, call.device, call.threads, call.seed, call.spacing) == ("m", "cpu", 1, 9, 2.5)
    assert (call.memory, call.smoothness) == (1.5, 2.0)
    assert call.fixed_mask.array.all()
    assert call.moving_mask.array.all()
    np.testing.assert_allclose(call.initial(np.zeros(3)), [3, 2, 1])
    np.testing.assert_allclose(
        read_field(pair.out / "u.mha").vectors, wave(GRID).vectors + np.array([3.0, 2.0, 1.0]), atol=1e-4
    )


@pytest.mark.parametrize("way", ["none", "center", "affine"])
def test_initialise(engine, pair, way: str) -> None:
    assert run(pair.fixed, pair.moving, "-o", pair.out / "u.mha", "--initialise", way).exit_code == 0
    assert (engine.calls[0].initial is None) == (way == "none")


def test_two_dimensions(engine, pair) -> None:
    fixed, moving = save(blobs(FLAT), pair.folder / "f.mha"), save(blobs(FLAT, seed=1), pair.folder / "m.mha")
    result = run(fixed, moving, "-o", pair.out / "u.nii.gz", "--warped", pair.out / "w.nii.gz")
    assert result.exit_code == 0, result.output
    np.testing.assert_array_equal(read_field(pair.out / "u.nii.gz").vectors, wave(FLAT).vectors)


def test_verbose_says_what_is_done(engine, pair) -> None:
    text = run(pair.fixed, pair.moving, "-o", pair.out / "u.mha", "-v").output
    for part in (
        "fixed: 17 x 14 x 12 voxels of 1.5 x 2 x 3.1 mm",
        f"wrote {pair.out / 'u.mha'}",
    ):
        assert part in text


def test_replaced_files_are_told(engine, pair) -> None:
    arguments = pair.fixed, pair.moving, "-o", pair.out / "u.mha", "-v"
    assert "over the old file" not in run(*arguments).output
    assert f"wrote {pair.out / 'u.mha'} over the old file" in run(*arguments).output


def test_value_outside(engine, pair) -> None:
    """Voxels outside the moving image get the value; an image far to the side is outside everywhere on one half."""
    grid = Grid.create((12, 11, 10), (2.0, 2.0, 2.0))
    half = Grid.create((6, 11, 10), (2.0, 2.0, 2.0))
    fixed, moving = save(blobs(grid), pair.folder / "f.mha"), pair.folder / "half.mha"
    save(Volume(np.random.default_rng(0).integers(1, 99, half.shape).astype(np.int16), half), moving)
    for words, expected in (([], 0), (["--default", -125], -125)):
        result = run(fixed, moving, "--warped", pair.out / "w.mha", *words)
        assert result.exit_code == 0, result.output
        # The wave of the engine is shorter than two voxels.
        assert set(np.unique(read(pair.out / "w.mha")[..., 9:])) == {expected}
    assert run(fixed, moving, "-o", pair.out / "u.mha", "--default", 3).exit_code == 2
    calls = len(engine.calls)
    result = run(fixed, moving, "--warped", pair.out / "w.mha", "--default", "nan")
    assert (result.exit_code, len(engine.calls)) == (1, calls), "refused before the work"
    assert_one_sentence(result.output, "default is NaN")


@pytest.mark.parametrize("components", [1, 2])
def test_every_volume_of_a_series_is_warped(engine, pair, components: int) -> None:
    volumes = [blobs(GRID, seed=n).to_simpleitk() for n in range(3)]
    if components > 1:
        volumes = [SimpleITK.Compose([v] * components) for v in volumes]
    series = SimpleITK.JoinSeries(volumes, 7.0, 2.5)
    SimpleITK.WriteImage(series, str(pair.folder / "s.nrrd"))
    first = save(blobs(GRID), pair.folder / "one.mha")
    if components == 1:
        result = run(pair.folder / "s.nrrd", pair.folder / "s.nrrd", "--warped", pair.out / "w.nrrd")
        assert result.exit_code == 0, result.output
        warped = SimpleITK.ReadImage(str(pair.out / "w.nrrd"))
        assert (warped.GetDimension(), warped.GetSpacing()[3], warped.GetOrigin()[3]) == (4, 2.5, 7.0)
        for number, volume in enumerate(volumes):
            SimpleITK.WriteImage(volume, str(pair.folder / "v.mha"))
            assert run(first, pair.folder / "v.mha", "--warped", pair.out / "v.mha").exit_code == 0
            np.testing.assert_array_equal(read(pair.out / "w.nrrd")[number], read(pair.out / "v.mha"))
    else:
        result = run(first, pair.folder / "s.nrrd", "--warped", pair.out / "w.nrrd")
        assert result.exit_code == 1
        assert_one_sentence(result.output, "")


def sabotage(volume: Volume, value: float) -> Volume:
    array = volume.array.astype(np.float32)
    array[3, 4, 5] = value
    return Volume(array, volume.grid)


def moved(volume: Volume, offset: float) -> Volume:
    grid = volume.grid
    return Volume(
        volume.array, Grid.create(grid.size, grid.spacing, np.asarray(grid.origin) + offset, np.asarray(grid.direction))
    )


def rgb(path: Path) -> Path:
    image = SimpleITK.Image([8, 8, 8], SimpleITK.sitkVectorUInt8, 3)
    SimpleITK.WriteImage(image, str(path))
    return path


def text_file(path: Path) -> Path:
    path.write_text("this is no image")
    return path


def transform_file(path: Path) -> Path:
    SimpleITK.WriteTransform(SimpleITK.Euler2DTransform(), str(path))
    return path


def ones(grid: Grid) -> Volume:
    return Volume(np.ones(grid.shape, np.uint8), grid)


BIG = GRID.padded((0, 0, 0), (1, 0, 0))
# What takes the place of an argument, and what the error says.
BAD = {
    "missing file": ("moving", lambda d: d / "none.nii", "moving: there is no file"),
    "unreadable file": ("fixed", lambda d: text_file(d / "text.nii"), "fixed: .*cannot be read as an image"),
    "not an image": ("moving", lambda d: text_file(d / "text.txt"), "moving: .*cannot be read as an image"),
    "empty folder": ("moving", lambda d: d.parent / "out", "holds no DICOM slices"),
    "another dimension": ("moving", lambda d: save(blobs(FLAT), d / "flat.nii"), "fixed is 3-D .* moving is 2-D"),
    "empty RGB": ("fixed", lambda d: rgb(d / "rgb.nii"), r"fixed\[0\] is constant"),
    "NaN": ("moving", lambda d: save(sabotage(blobs(GRID), np.nan), d / "nan.nii"), "moving has 1 NaN or infinite"),
    "NaN in MetaImage": (
        "moving",
        lambda d: save(sabotage(blobs(GRID), np.nan), d / "nan.mha"),
        "moving has 1 NaN or infinite",
    ),
    "infinite": ("moving", lambda d: save(sabotage(blobs(GRID), np.inf), d / "inf.nii"), "1 NaN or infinite"),
    "constant": ("fixed", lambda d: save(ones(GRID), d / "one.nii"), "fixed is constant"),
    "one voxel": ("fixed", lambda d: save(blobs(Grid.create((9, 9, 1))), d / "thin.mha"), "one voxel only along z"),
    "apart": ("moving", lambda d: save(moved(blobs(GRID), 999), d / "far.nii"), "do not overlap .*--initialise center"),
    "empty mask": (
        "--fixed-mask",
        lambda d: save(Volume(np.zeros(GRID.shape, np.uint8), GRID), d / "mask.nii"),
        "--fixed-mask is empty",
    ),
    "mask elsewhere": (
        "--moving-mask",
        lambda d: save(ones(BIG), d / "mask.nii"),
        "--moving-mask lies on another grid",
    ),
    "missing transform": ("--initial-transform", lambda d: d / "none.tfm", "--initial-transform: there is no file"),
    "unreadable transform": ("--initial-transform", lambda d: text_file(d / "bad.h5"), "cannot be read as an ITK"),
    "2-D transform": ("--initial-transform", lambda d: transform_file(d / "flat.tfm"), "is 2-D but the fixed image"),
    "scalar field": ("--initial-transform", lambda d: save(blobs(GRID), d / "no.nii"), "1 components per voxel"),
}


@pytest.mark.parametrize("case", BAD, ids=lambda name: name.replace(" ", "-"))
def test_bad_input_gives_one_sentence_and_no_file(engine, pair, case: str) -> None:
    place, make, message = BAD[case]
    inputs = {"fixed": pair.fixed, "moving": pair.moving, place: make(pair.folder)}
    arguments = [inputs.pop("fixed"), inputs.pop("moving"), *[part for item in inputs.items() for part in item]]
    result = run(*arguments, "-o", pair.out / "u.nii.gz", "--warped", pair.out / "w.nii.gz")
    assert result.exit_code == 1
    assert_one_sentence(result.output, message)
    assert not list(pair.out.iterdir())
    assert not engine.calls


def assert_one_sentence(output: str, message: str) -> None:
    assert re.search(message, output), output
    assert output.startswith("Error: ")
    assert output.endswith(".\n")
    assert output.count("\n") == 1
    assert "Traceback" not in output


def test_fractions_in_labels(engine, pair) -> None:
    labels = save(sabotage(blobs(GRID), 0.5), pair.folder / "labels.nii")
    result = run(pair.fixed, pair.moving, "--moving-labels", labels, "--warped-labels", pair.out / "l.nii")
    assert result.exit_code == 1
    assert_one_sentence(result.output, "--moving-labels is no label image")


def test_error_of_the_engine(engine, pair) -> None:
    engine.error = RegistrationError("model is 'x', expected one of a, b")
    result = run(pair.fixed, pair.moving, "-o", pair.out / "u.nii.gz")
    assert (result.exit_code, result.output) == (1, "Error: model is 'x', expected one of a, b.\n")
    assert not list(pair.out.iterdir())


def test_out_of_memory_and_interruption(engine, pair) -> None:
    engine.error = MemoryError()
    result = run(pair.fixed, pair.moving, "-o", pair.out / "u.nii.gz")
    assert result.exit_code == 1
    assert_one_sentence(result.output, "not enough memory")
    engine.error = KeyboardInterrupt()
    result = run(pair.fixed, pair.moving, "-o", pair.out / "u.nii.gz")
    assert (result.exit_code, result.output) == (130, "Interrupted; nothing was written.\n")
    assert not list(pair.out.iterdir())


@pytest.mark.parametrize(
    ("option", "path", "message"),
    [
        ("-o", "none/u.nii.gz", "output: there is no folder"),
        ("-o", "u.jpeg", "output: the extension '.jpeg'"),
        ("-o", "../in/fixed.nii.gz", "is an input already"),
        ("--transform", "t.nii.gz", "transform: the extension '.nii.gz'"),
        ("--warped", "w.h5", "warped: the extension '.h5'"),
        ("--inverse", "u.mha", "u.mha is output already|u.mha is inverse already"),
    ],
)
def test_impossible_output_is_told_before_the_work(engine, pair, option: str, path: str, message: str) -> None:
    before = pair.fixed.read_bytes()
    result = run(pair.fixed, pair.moving, "--output", pair.out / "u.mha", option, pair.out / path)
    assert result.exit_code == 3
    assert_one_sentence(result.output, message)
    assert not engine.calls
    assert not list(pair.out.iterdir())
    assert pair.fixed.read_bytes() == before


def test_full_disk(engine, pair) -> None:
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        result = run(pair.fixed, pair.moving, "--warped", pair.out / "w.mha", "-o", pair.out / "u.nii")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert result.exit_code == 3
    assert_one_sentence(result.output, "could not be written")
    assert not list(pair.out.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Missing argument 'FIXED'"),
        (["f.nii"], "Missing argument 'MOVING'"),
        (["f.nii", "m.nii"], "Nothing to write"),
        (["f.nii", "m.nii", "-o", "u.nii", "--moving-labels", "l.nii"], "belong together"),
        (
            ["f.nii", "m.nii", "-o", "u.nii", "--initial-transform", "t.h5", "--initialise", "affine"],
            "exclude each other",
        ),
        (["f.nii", "m.nii", "-o", "u.nii", "--threads", "0"], "--threads"),
        (["f.nii", "m.nii", "-o", "u.nii", "--memory", "0"], "--memory"),
        (["f.nii", "m.nii", "-o", "u.nii", "--magic"], "--magic"),
        (["--demo", "d", "f.nii", "m.nii"], "--demo makes its own images"),
        (["--demo", "d", "-o", "u.nii"], "--demo makes its own images"),
    ],
)
def test_wrong_usage(engine, arguments: list[str], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not engine.calls


def test_help_is_fast_and_complete() -> None:
    start = time.time()
    code = "import sys; from itk_pdd.cli.register import main; main(['--help'])"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert time.time() - start < 1.5
    for parameter in main.params:
        if parameter.param_type_name == "option":
            assert parameter.opts[-1] in shown.stdout
            assert parameter.help
    assert "Exit codes" in shown.stdout
    from itk_pdd.models import names

    assert all(name in shown.stdout for name in names())


@pytest.mark.parametrize("name", ["oblique", "left-handed", "flipped and permuted", "anisotropic", "oblique 2-D"])
@pytest.mark.parametrize("start", [0, 6])
def test_written_field_warps_alike_in_itk_and_simpleitk(engine, tmp_path, name: str, start: int) -> None:
    """The command's own warped image, and those of ITK and SimpleITK with the files it wrote."""
    import itk

    grid = GEOMETRIES[name]
    wide = grid.padded([3] * grid.dimension, [2] * grid.dimension)
    fixed, moving = save(blobs(grid), tmp_path / "f.mha"), save(blobs(wide, seed=1), tmp_path / "m.mha")
    outputs = {"-o": "u.nii.gz", "--transform": "t.h5", "--warped": "w.mha"}
    arguments = [part for option, file in outputs.items() for part in (option, tmp_path / file)]
    assert run(fixed, moving, *arguments).exit_code == 0
    ours = read(tmp_path / "w.mha")
    assert np.ptp(ours) > 10

    reference, image = SimpleITK.ReadImage(str(fixed)), SimpleITK.ReadImage(str(moving))
    field = SimpleITK.ReadImage(str(tmp_path / "u.nii.gz"), SimpleITK.sitkVectorFloat64)
    for transform in (SimpleITK.DisplacementFieldTransform(field), SimpleITK.ReadTransform(str(tmp_path / "t.h5"))):
        theirs = SimpleITK.GetArrayFromImage(SimpleITK.Resample(image, reference, transform))
        np.testing.assert_allclose(theirs[inside(grid)], ours[inside(grid)], atol=1e-3 * np.ptp(ours))

    (transform,) = itk.transformread(str(tmp_path / "t.h5"))
    target = to_itk(blobs(grid), start=start)
    warped = itk.resample_image_filter(
        itk.imread(str(moving)), transform=transform, use_reference_image=True, reference_image=target
    )
    np.testing.assert_allclose(itk.array_from_image(warped)[inside(grid)], ours[inside(grid)], atol=1e-3 * np.ptp(ours))
    image = itk.imread(str(tmp_path / "u.nii.gz"), itk.Vector[itk.F, grid.dimension])
    warper = itk.WarpImageFilter.New(itk.imread(str(moving)), DisplacementField=image)
    warper.SetOutputParametersFromImage(itk.imread(str(fixed)))
    warper.Update()
    np.testing.assert_allclose(
        itk.array_from_image(warper.GetOutput())[inside(grid)], ours[inside(grid)], atol=1e-3 * np.ptp(ours)
    )


def inside(grid: Grid) -> tuple[slice, ...]:
    return (slice(1, -1),) * grid.dimension


TRANSFORMIX = """
    import sys
    import itk

    def text(values):
        return [str(float(value)) for value in values]

    for folder in sys.argv[1:]:
        image = itk.imread(folder + "/m.mha", itk.F)
        dimension = image.GetImageDimension()
        reference = itk.imread(folder + "/u.nii.gz", itk.Vector[itk.F, dimension])
        parameters = itk.ParameterObject.New()
        parameters.AddParameterMap({
            "Transform": ["DeformationFieldTransform"],
            "DeformationFieldFileName": [folder + "/u.nii.gz"],
            "DeformationFieldInterpolationOrder": ["1"],
            "NumberOfParameters": ["0"],
            "InitialTransformParameterFileName": ["NoInitialTransform"],
            "HowToCombineTransforms": ["Compose"],
            "FixedImageDimension": [str(dimension)],
            "MovingImageDimension": [str(dimension)],
            "FixedInternalImagePixelType": ["float"],
            "MovingInternalImagePixelType": ["float"],
            "Size": [str(int(n)) for n in reference.GetLargestPossibleRegion().GetSize()],
            "Index": ["0"] * dimension,
            "Spacing": text(reference.GetSpacing()),
            "Origin": text(reference.GetOrigin()),
            "Direction": text(itk.array_from_matrix(reference.GetDirection()).T.ravel()),
            "UseDirectionCosines": ["true"],
            "ResampleInterpolator": ["FinalLinearInterpolator"],
            "Resampler": ["DefaultResampler"],
            "DefaultPixelValue": ["0"],
            "ResultImagePixelType": ["float"],
        })
        itk.imwrite(itk.transformix_filter(image, parameters), folder + "/x.mha")
"""


@pytest.mark.slow
def test_written_field_warps_alike_in_transformix(engine, tmp_path) -> None:
    try:
        importlib.metadata.version("itk-elastix")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("itk-elastix is not installed")
    folders = []
    for name in ("oblique", "left-handed", "oblique 2-D"):
        folders.append(tmp_path / name.replace(" ", "-"))
        folders[-1].mkdir()
        grid = GEOMETRIES[name]
        wide = grid.padded([3] * grid.dimension, [2] * grid.dimension)
        fixed, moving = save(blobs(grid), folders[-1] / "f.mha"), save(blobs(wide, seed=1), folders[-1] / "m.mha")
        outputs = "-o", folders[-1] / "u.nii.gz", "--warped", folders[-1] / "w.mha"
        assert run(fixed, moving, *outputs).exit_code == 0
    # In a process and a folder of its own: it leaves files behind, and shares ITK's state.
    script = tmp_path / "apply.py"
    script.write_text(textwrap.dedent(TRANSFORMIX))
    subprocess.run([sys.executable, script, *folders], check=True, cwd=tmp_path, capture_output=True)
    for folder in folders:
        ours, theirs = read(folder / "w.mha"), read(folder / "x.mha")
        inner = (slice(1, -1),) * ours.ndim
        np.testing.assert_allclose(theirs[inner], ours[inner], atol=1e-3 * np.ptp(ours), err_msg=folder.name)


def test_function_object_and_command_agree(engine, pair) -> None:
    import itk

    assert run(pair.fixed, pair.moving, "-o", pair.out / "u.nii.gz").exit_code == 0
    transform = itk_pdd.register(pair.fixed, pair.moving)
    method = itk_pdd.PDDRegistrationMethod.New(fixed_image=pair.fixed, moving_image=pair.moving)
    expected = read_field(pair.out / "u.nii.gz").vectors
    np.testing.assert_array_equal(itk.array_from_image(transform.GetDisplacementField()), expected)
    np.testing.assert_array_equal(itk.array_from_image(method.GetDisplacementField()), expected)


def test_bar_on_a_terminal(engine, pair) -> None:
    """In a terminal of its own, as nothing else shows what a user sees."""
    pty = pytest.importorskip("pty", reason="no pseudo-terminals here")
    import fcntl
    import struct
    import termios

    script = pair.folder / "run.py"
    script.write_text(
        textwrap.dedent(f"""
        import sys, time, types
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        import itk_pdd.registration
        from conftest import wave

        def run(problem, *, progress=None, **options):
            for step in range(5):
                time.sleep(0.12)
                progress(step / 4, f"stage {{step}}")
            return types.SimpleNamespace(
                field=wave(problem.fixed.grid), capture_range_mm=10.0, uncertainty=None, overlap=None, warnings=()
            )

        itk_pdd.registration.run = run
        from itk_pdd.cli.register import main
        main({[str(pair.fixed), str(pair.moving), "-o", str(pair.out / "u.mha")]!r})
        """)
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("4H", 24, 80, 0, 0))
    process = subprocess.Popen([sys.executable, script], stderr=theirs, stdout=subprocess.PIPE)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how the end of a pseudo-terminal is told
            break
        if not part:
            break
        shown += part
    assert process.wait() == 0
    assert process.stdout.read() == b""
    assert b"stage 2" in shown
    assert "█" in shown.decode()
    assert shown.decode().endswith("\r"), "the bar is gone in the end"


def test_registered_is_told_once(tmp_path) -> None:
    """An affine start is several registrations inside, and one for the user."""
    made = make_pair((60, 56), 3.0, seed=6)
    for name, volume in (("fixed", made.fixed), ("moving", made.moving)):
        SimpleITK.WriteImage(volume.to_simpleitk(), str(tmp_path / f"{name}.nii"))
    words = [str(tmp_path / "fixed.nii"), str(tmp_path / "moving.nii"), "--initialise", "affine", "-v"]
    told = CliRunner().invoke(main, [*words, "-o", str(tmp_path / "field.mha")]).output
    assert told.count("registered in") == 1 and told.count("Verdict") == 1


@pytest.mark.parametrize("command", ["register", "compare", "evaluate"])
def test_help_names_numbers_plainly(command) -> None:
    help_text = CliRunner().invoke(importlib.import_module(f"itk_pdd.cli.{command}").main, ["--help"]).output
    assert "RANGE" not in help_text and "INTEGER" not in help_text and "FLOAT" not in help_text


def test_the_first_example_starts_with_an_alignment() -> None:
    help_text = CliRunner().invoke(main, ["--help"]).output
    assert "--initialise affine" in help_text.split("Examples:")[1].splitlines()[1]
