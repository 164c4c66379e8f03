"""What figures are called, and how one is written with its interval: for pages, reports and exports alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

METRICS = {
    "auc": "AUC",
    "accuracy": "Accuracy",
    "balanced_accuracy": "Balanced accuracy",
    "f1": "F1",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "ppv": "PPV",
    "npv": "NPV",
    "brier": "Brier score (0 is best)",
    "ece": "Calibration error (0 is best)",
    "sensitivity_at_specificity_90": "Sensitivity at 90 % specificity",
    "sensitivity_at_specificity_95": "Sensitivity at 95 % specificity",
    "map": "AP, IoU 0.5 to 0.95",
    "map10": "AP at IoU 0.1",
    "map30": "AP at IoU 0.3",
    "map50": "AP at IoU 0.5",
    "cpm": "FROC, mean sensitivity",
    "sensitivity_small": "Sensitivity, small",
    "sensitivity_medium": "Sensitivity, medium",
    "sensitivity_large": "Sensitivity, large",
    "false_alarms_per_image": "False alarms an image",
    "image_specificity": "Images without lesion left clean",
    "dice": "Dice",
    "iou": "IoU",
    "hd95_mm": "Hausdorff distance, 95 % (mm)",
    "hd95_px": "Hausdorff distance, 95 % (px)",
    "nsd": "Surface Dice (NSD)",
    "missed": "Lesions missed whole",
    "patient_dice": "Dice, by patient",
    "patient_iou": "IoU, by patient",
    "volume_ml": "Volume (ml)",
    "volume_difference_ml": "Volume answered too large (ml)",
    "volume_error_ml": "Volume error (ml)",
    "false_positive_rate": "Cases without lesion, outlined all the same",
    "false_volume_ml": "Volume outlined there (ml)",
    "area_mm2": "Area (mm2)",
    "area_difference_mm2": "Area answered too large (mm2)",
    "area_error_mm2": "Area error (mm2)",
    "false_area_mm2": "Area outlined there (mm2)",
    "psnr_db": "PSNR (dB)",
    "psnr_gain_db": "PSNR gained over the input (dB)",
    "psnr_gain_best_db": "PSNR gained over the best plain filter (dB)",
    "gain_db": "The network's gain over it (dB)",
    "ssim": "SSIM",
    "rmse": "RMSE",
    "bias": "Bias",
    "bias_lung": "Bias in lung",
    "bias_soft_tissue": "Bias in soft tissue",
    "noise_std": "Noise where the scan is flat",
    "noise_ratio": "Noise left of the input's (1 is all)",
    "noise_frequency": "Grain of that noise (cycles a pixel)",
    "edge_px": "Width of edges (px)",
    "edge_mm": "Width of edges (mm)",
    "edge_ratio": "Width of edges (1 is as sharp)",
}

_AS_WRITTEN = ("Dice", "IoU", "Hausdorff", "Brier")  # names keep their capital
_UNITS = ("dB", "mm", "mm2", "px", "ml")


def metric_words(name: str) -> str:
    """Returns what a figure is called."""
    return METRICS.get(name, name.replace("_", " ").capitalize())


def spoken(name: str) -> str:
    """Returns what a figure is called within a sentence: "balanced accuracy", "AUC", "AP at IoU 0.5"."""
    words = metric_words(name)
    first = words.split(maxsplit=1)[0].rstrip(",")
    return (
        words if first in _AS_WRITTEN or first[1:2].isupper() or first[1:2].isdigit() else words[:1].lower() + words[1:]
    )


def figure(name: str, value: float) -> str:
    """Returns the value of a figure to three decimals; of a loss, which has no scale of its own (the squared error of a
    picture is some ten-thousandths), to three digits where that is more."""
    small = name.rpartition("/")[2] == "loss" and 0 < abs(value) < 0.1
    return f"{value:.3g}" if small else f"{value:.3f}"


def with_value(name: str, value: float) -> str:
    """Returns a figure within a sentence, its unit behind the value: "AUC 0.912", "PSNR 34.549 dB",
    "AP at IoU 0.5: 0.888"."""
    words, _, unit = spoken(name).removesuffix(")").rpartition(" (")
    if unit in _UNITS:
        return f"{words} {figure(name, value)} {unit}"
    words = spoken(name)
    return f"{words}{':' if words[-1:].isdigit() and ' ' in words else ''} {figure(name, value)}"


def chosen_by(point: Mapping[str, Any]) -> str:
    """Returns who chose the score of an operating point (`boxes.report`), within a sentence: "chosen on ..."."""
    return _CHOSEN[str(point.get("chosen") or "here")]


_CHOSEN = {
    "validation": "chosen on the validation scans",
    "here": "chosen on these very scans, which flatters",
    "nobody": "as none could be chosen",
}


def interval(figure: Mapping[str, float | None] | None) -> str:
    """Returns a figure with its interval: "0.912 (0.871–0.948)"; "undefined" where there is none."""
    if not figure or figure.get("value") is None:
        return "undefined"
    low, high = figure.get("low"), figure.get("high")
    if low is None or high is None:
        return f"{written(figure['value'])} (one patient: no interval)"
    dash = " to " if low < 0 else "–"
    return f"{written(figure['value'])} ({written(low)}{dash}{written(high)})"


def written(value: float | None) -> str:
    """A figure with three decimals, with one from 10 on; a dash where it is undefined."""
    if value is None:
        return "–"
    return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
