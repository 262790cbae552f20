"""Read folders of DICOM slices."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

from itk_pdd.errors import RegistrationError, RegistrationWarning
from itk_pdd.io.messages import READ_ERRORS, itk_reason, library_messages

if TYPE_CHECKING:
    import SimpleITK

__all__ = ["read_series"]

log = logging.getLogger("itk_pdd")


def read_series(folder: Path, name: str) -> SimpleITK.Image:
    import SimpleITK

    try:
        with library_messages():
            series = {
                identifier: SimpleITK.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder), identifier)
                for identifier in SimpleITK.ImageSeriesReader.GetGDCMSeriesIDs(str(folder))
            }
    except READ_ERRORS as error:
        raise RegistrationError(f"{name}: the DICOM slices in {folder} cannot be read ({itk_reason(error)})") from error
    if not series:
        raise RegistrationError(f"{name}: the folder {folder} holds no DICOM slices")
    chosen = max(sorted(series), key=lambda identifier: len(series[identifier]))
    if len(series) > 1:
        log.warning(
            "%s: the folder %s holds %d DICOM series; reading the largest, %s with %d slices",
            name, folder, len(series), chosen, len(series[chosen]),
        )  # fmt: skip
    reader = SimpleITK.ImageSeriesReader()
    reader.SetFileNames(series[chosen])
    try:
        with library_messages():
            image = reader.Execute()
    except READ_ERRORS as error:
        raise RegistrationError(f"{name}: the DICOM slices in {folder} cannot be read ({itk_reason(error)})") from error
    if image.HasMetaDataKey("ITK_non_uniform_sampling_deviation"):
        warnings.warn(
            f"{name}: the slices in {folder} are not evenly spaced (a slice may be missing) and are taken to be "
            f"{image.GetSpacing()[2]:.3g} mm apart",
            RegistrationWarning,
            stacklevel=2,
        )
    return image
