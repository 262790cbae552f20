"""The settings of the ITK-style object for what a user knows about the images."""

from __future__ import annotations

from typing import Any

__all__ = ["GuidanceSettings"]


class GuidanceSettings:
    """Setters and getters of masks, labels and landmarks; see :func:`itk_pdd.register` for what each takes."""

    _settings: dict[str, Any]

    def _set(self, key: str, value: Any) -> None:
        raise NotImplementedError

    def SetFixedMask(self, mask: Any) -> None:
        """Set the mask of the fixed image, on its grid; voxels other than 0 count."""
        self._set("fixed_mask", mask)

    def GetFixedMask(self) -> Any:
        """The mask of the fixed image."""
        return self._settings["fixed_mask"]

    def SetMovingMask(self, mask: Any) -> None:
        """Set the mask of the moving image, on its grid; voxels other than 0 count."""
        self._set("moving_mask", mask)

    def GetMovingMask(self) -> Any:
        """The mask of the moving image."""
        return self._settings["moving_mask"]

    def SetFixedLabels(self, labels: Any) -> None:
        """Set the labels of the fixed image, which guide the registration with those of the moving image; or None."""
        self._set("fixed_labels", labels)

    def GetFixedLabels(self) -> Any:
        """The labels of the fixed image."""
        return self._settings["fixed_labels"]

    def SetMovingLabels(self, labels: Any) -> None:
        """Set the labels of the moving image, of the same kinds as those of the fixed image."""
        self._set("moving_labels", labels)

    def GetMovingLabels(self) -> Any:
        """The labels of the moving image."""
        return self._settings["moving_labels"]

    def SetGuide(self, labels: Any) -> None:
        """Set the labels that count: numbers or names, or None for all that both images have."""
        self._set("guide", labels)

    def GetGuide(self) -> Any:
        """The labels that count."""
        return self._settings["guide"]

    def SetLabelMap(self, table: Any) -> None:
        """Set which label of the fixed image corresponds to which of the moving one: a mapping or a CSV file."""
        self._set("label_map", table)

    def GetLabelMap(self) -> Any:
        """The table of labels."""
        return self._settings["label_map"]

    def SetLabelWeight(self, weight: float) -> None:
        """Set how much the labels count against the intensities; larger follows the labels more closely."""
        self._set("label_weight", weight)

    def GetLabelWeight(self) -> float:
        """The weight of the labels."""
        return self._settings["label_weight"]

    def SetFixedPoints(self, points: Any) -> None:
        """Set the landmarks of the fixed image: points in mm or a file of points; or None."""
        self._set("fixed_points", points)

    def GetFixedPoints(self) -> Any:
        """The landmarks of the fixed image."""
        return self._settings["fixed_points"]

    def SetMovingPoints(self, points: Any) -> None:
        """Set the landmarks of the moving image, which correspond to those of the fixed image."""
        self._set("moving_points", points)

    def GetMovingPoints(self) -> Any:
        """The landmarks of the moving image."""
        return self._settings["moving_points"]

    def SetPointUncertainty(self, uncertainty: Any) -> None:
        """Set the standard deviation of the landmarks in mm, one for all or one for each; None for half a voxel."""
        self._set("point_uncertainty", uncertainty)

    def GetPointUncertainty(self) -> Any:
        """The standard deviation of the landmarks in mm."""
        return self._settings["point_uncertainty"]

    def SetExactPoints(self, exact: bool) -> None:
        """Set whether the field meets every landmark that is obeyed."""
        self._set("exact_points", bool(exact))

    def GetExactPoints(self) -> bool:
        """Return True if the field meets every landmark that is obeyed."""
        return self._settings["exact_points"]

    def SetFeatures(self, features: Any) -> None:
        """Set a network that gives features of both images: a TorchScript or ONNX file, or a callable; or None."""
        self._set("features", features)

    def GetFeatures(self) -> Any:
        """The network that gives features."""
        return self._settings["features"]

    def SetFeatureCard(self, card: Any) -> None:
        """Set what the network of features takes and gives: a mapping or a JSON file."""
        self._set("feature_card", card)

    def GetFeatureCard(self) -> Any:
        """The card of the network of features."""
        return self._settings["feature_card"]

    def SetRigid(self, labels: Any) -> None:
        """Set the labels of the fixed image that move rigidly: numbers or names; or None."""
        self._set("rigid", labels)

    def GetRigid(self) -> Any:
        """The labels that move rigidly."""
        return self._settings["rigid"]

    def SetSliding(self, label: Any) -> None:
        """Set the label along whose border the field slides: a number or a name; or None."""
        self._set("sliding", label)

    def GetSliding(self) -> Any:
        """The label along whose border the field slides."""
        return self._settings["sliding"]
