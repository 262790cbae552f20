"""Headers of image files looked at before ITK reads them: some values make its readers crash or never return.

What is refused here is no number at all, not finite, or beyond any image of a body: ITK takes the inverse of matrices
with them, or allocates by them. What is merely odd is left to the readers and to the checks of images.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from pathlib import Path

from itk_pdd.errors import RegistrationError
from itk_pdd.io.guards.nifti import nifti_ending, read_head

__all__ = ["check_header", "check_transform_text", "nrrd_fields"]

_TEXT_BYTES = 1 << 16  # of a text header that are looked at
_LARGEST_MM = 1e9
_LARGEST_SIZE = 1 << 31
_NUMBER = re.compile(r"[^\s,()]+")

# MetaImage's keys with several names for the same thing.
_META_COSINES = ("transformmatrix", "rotation", "orientation")
_META_LENGTHS = ("offset", "position", "origin", "elementspacing", "elementsize", "centerofrotation")
_NRRD_LENGTHS = ("space directions", "space origin", "spacings", "axis mins", "axis maxs", "measurement frame")
_META_BYTES = {"CHAR": 1, "UCHAR": 1, "SHORT": 2, "USHORT": 2, "INT": 4, "UINT": 4, "FLOAT": 4, "LONG": 4, "ULONG": 4,
               "DOUBLE": 8, "LONG_LONG": 8, "ULONG_LONG": 8}  # fmt: skip


def check_header(path: Path, *, name: str) -> None:
    """Refuse a MetaImage, NRRD, NIfTI or VTK file whose header holds impossible numbers; other formats are let pass.

    These are numbers of dimensions, sizes, spacings, origins and directions that are none, not finite, or beyond
    reason.
    """
    ending = path.name.lower()
    where = f"{name}: {path}"
    if ending.endswith((".mha", ".mhd")):
        _check_meta(_fields(path, "="), path, where)
    elif ending.endswith((".nrrd", ".nhdr")):
        _check_nrrd(_fields(path, ":"), where)
    elif nifti_ending(path):
        _check_nifti(path, where)
    elif ending.endswith(".vtk"):
        lines = [line.partition(" ")[::2] for line in _head(path).split("\n")[:12]]
        fields = {key.strip().lower(): value for key, value in lines}
        _check_numbers(fields, ("spacing", "aspect_ratio", "origin"), _LARGEST_MM, where)
        _check_sizes(fields, "dimensions", where)


def check_transform_text(path: Path, *, name: str) -> None:
    """Refuse a transform file of ITK in text that announces a grid of another size than it holds numbers for."""
    content = path.read_bytes()
    if not content.startswith(b"#Insight Transform File"):
        return
    kind, dimension, count = "", 0, 0
    where = f"{name}: {path}"
    for line in content.decode("latin-1").split("\n"):
        key, _, value = line.partition(":")
        words = value.split()
        if key == "Transform":
            kind = value.strip()
            dimension = int(found[1]) if (found := re.search(r"_(\d)_\d$", kind)) else 0
        elif key == "Parameters":
            count = len(words)
        elif key == "FixedParameters" and kind.startswith(("BSpline", "DisplacementField")):
            sizes = [_number_of_points(word, where) for word in words[:dimension]]
            if math.prod(sizes) * dimension != count:
                raise RegistrationError(
                    f"{where} is damaged: {count} parameters for {' x '.join(map(str, sizes))} points, expected "
                    f"{dimension} for each"
                )


def _number_of_points(word: str, where: str) -> int:
    try:
        number = float(word)
    except ValueError:
        number = math.nan
    if not 1 <= number < _LARGEST_SIZE:
        raise RegistrationError(f"{where} is damaged: a grid of {word!a} points")
    return int(number)


def _head(path: Path) -> str:
    with open(path, "rb") as file:
        return file.read(_TEXT_BYTES).decode("latin-1").replace("\r", "")


def _fields(path: Path, separator: str) -> dict[str, str]:
    """The lines "key separator value" of a header in text; it ends where the voxels begin."""
    fields: dict[str, str] = {}
    for line in _head(path).split("\n"):
        key, found, value = line.partition(separator)
        if not line.strip():
            break
        if found:
            fields.setdefault(key.strip().lower(), value.strip())
        if key.strip() == "ElementDataFile":
            break
    return fields


def _check_meta(fields: dict[str, str], path: Path, where: str) -> None:
    if "ndims" in fields:
        count = _whole(fields["ndims"], "NDims", where, 1, 10)
        for key, expected in [*[(k, count * count) for k in _META_COSINES], *[(k, count) for k in _META_LENGTHS]]:
            if key in fields and len(_NUMBER.findall(fields[key])) != expected:
                raise RegistrationError(f"{where} has a damaged header: {key} does not hold {expected} numbers")
    _check_numbers(fields, _META_COSINES, 1e3, where)
    _check_numbers(fields, _META_LENGTHS, _LARGEST_MM, where)
    sizes = _check_sizes(fields, "dimsize", where, fields.get("ndims"))
    channels = 1
    if "elementnumberofchannels" in fields:
        channels = _whole(fields["elementnumberofchannels"], "ElementNumberOfChannels", where, 1, 1 << 16)
    kind = _META_BYTES.get(fields.get("elementtype", "").removeprefix("MET_").removesuffix("_ARRAY"))
    data = fields.get("elementdatafile", "")
    local = data.upper() == "LOCAL"
    _check_numbered_files(data, "ElementDataFile", where)
    plain = (
        fields.get("compresseddata", "False").lower() == "false" and fields.get("binarydata", "True").lower() == "true"
    )
    if sizes and kind and local and plain and (missing := math.prod(sizes) * channels * kind - path.stat().st_size) > 0:
        raise RegistrationError(f"{where} was cut short, it lacks {missing} bytes: copy it again")


def _check_numbered_files(value: str, key: str, where: str) -> None:
    """Refuse names of slices, "name%03d.raw first last step", that are no such pattern or have no step.

    The libraries divide by the step and give the pattern to a function that trusts it.
    """
    if "%" not in value:
        return
    pattern, *numbers = value.split()
    whole = all(re.fullmatch(r"\d{1,9}", number) for number in numbers)
    if re.sub(r"%0?\d?d", "", pattern, count=1).count("%") or not whole or (len(numbers) > 2 and int(numbers[2]) < 1):
        raise RegistrationError(
            f"{where} has a damaged header: {key} is {value[:80]!a}, expected a file name, or a name with one %d, the "
            "first number, the last number and a step of 1 or more"
        )


def nrrd_fields(path: Path) -> dict[str, str]:
    """Give the fields of the header of an NRRD file by their names in small letters."""
    return _fields(path, ":")


def _check_nrrd(fields: dict[str, str], where: str) -> None:
    if "dimension" in fields:
        _whole(fields["dimension"], "dimension", where, 1, 16)
    # An axis that is none of space says "none", one whose spacing is not known says "NaN".
    lengths = {key: re.sub(r"\bnone\b", "", fields[key]) for key in _NRRD_LENGTHS if key in fields}
    for key in ("spacings", "axis mins", "axis maxs"):
        if key in lengths:
            lengths[key] = re.sub(r"\bnan\b", "", lengths[key], flags=re.IGNORECASE)
    _check_numbers(lengths, _NRRD_LENGTHS, _LARGEST_MM, where)
    _check_sizes(fields, "sizes", where, fields.get("dimension"))
    for key in ("data file", "datafile"):
        _check_numbered_files(fields.get(key, ""), key, where)


def _check_nifti(path: Path, where: str) -> None:
    head = read_head(path)
    if head is None:
        return  # the reader will say what is wrong
    count, *sizes = head.numbers("dim")
    if not 1 <= count <= 7 or any(not 0 <= n < _LARGEST_SIZE for n in sizes[:count]):
        raise RegistrationError(f"{where} has a damaged header: {count} dimensions of the sizes {tuple(sizes)}")
    parts = [("pixdim", head.numbers("pixdim")[1 : count + 1]), ("the place of the voxels", head.numbers("vox_offset"))]
    if head.is_nifti and head.number("qform_code") > 0:
        parts.append(("the quaternion", head.numbers("quaternion")))
    if head.is_nifti and head.number("sform_code") > 0:
        parts.append(("srow", head.numbers("srow")))
    for what, found in parts:
        for number in found:
            _check_number(number, what, _LARGEST_MM, where)


def _check_numbers(fields: dict[str, str], keys: tuple[str, ...], largest: float, where: str) -> None:
    for key in keys:
        for number in _numbers(fields.get(key, ""), key, where):
            _check_number(number, key, largest, where)


def _check_number(number: float, what: str, largest: float, where: str) -> None:
    if not abs(number) <= largest:
        raise RegistrationError(f"{where} has a damaged header: {what} holds {number:g}, expected finite numbers")


def _numbers(text: str, key: str, where: str) -> Iterator[float]:
    for word in _NUMBER.findall(text):
        try:
            yield float(word)
        except ValueError:
            raise RegistrationError(f"{where} has a damaged header: {key} holds {word!a}, expected numbers") from None


def _check_sizes(fields: dict[str, str], key: str, where: str, count: str | None = None) -> list[int]:
    if key not in fields:
        return []
    sizes = [_whole(word, key, where, 1, _LARGEST_SIZE) for word in fields[key].split()]
    if count is not None and len(sizes) != int(count):
        raise RegistrationError(f"{where} has a damaged header: {len(sizes)} sizes, expected {count}")
    return sizes


def _whole(word: str, key: str, where: str, lowest: int, largest: int) -> int:
    try:
        number = int(word)
    except ValueError:
        number = lowest - 1
    if not lowest <= number <= largest:
        raise RegistrationError(
            f"{where} has a damaged header: {key} is {word!a}, expected a whole number from {lowest} to {largest}"
        )
    return number
