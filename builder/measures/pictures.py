"""How near enhanced pictures come to the true ones, always beside what needs no learning.

Every way to get a picture (the network's "output", the "input" as it came, classical filters) is judged alike, in the
stored values of the scan (Hounsfield units for CT). PSNR and SSIM are taken within a display window, as a reader sees
it: both pictures are clipped to the window and its width is the data range (Eulig et al., Med Phys 51:8776-8788, 2024).
RMSE and bias are taken on the whole range. PSNR: at most 100 dB. SSIM: Wang et al., IEEE TIP 13:600-612, 2004, with a
Gaussian of 1.5 px in 11 x 11 px, as torchmetrics computes it (in a twentieth of its time on a CPU). Full-reference
figures do not tell what a reader would miss; noise texture and edges are told beside them (see `texture`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from builder.measures import bootstrap, texture
from builder.measures.baselines import MOST_DB, described, psnr
from builder.measures.bootstrap import RESAMPLES, ratio

OUTPUT, INPUT, TRUE = "output", "input", "true"
SSIM_SIDE = 11  # px: smaller pictures have no SSIM
Windows = Mapping[str, tuple[float, float]]
"""{name: (low, high) in stored values}; in the first are headline figures taken, and noise is read in what it shows."""


@dataclass(frozen=True)
class Pictures:
    """Numbers of N pictures made in M ways, seen through W windows; all arrays, so that one file holds them.

    Attributes:
        ways: (M,) str, "output" and "input" among them. windows: (W,) str. bounds: (W, 2) low and high of each.
        settings: (M,) str, the settings of the filters in words.
        psnr_db, ssim: (N, M, W) float. rmse, bias: (N, M) in stored values; bias is the mean of picture - true.
        noise_std: (N, M + 1) in flat squares; the last is the true picture's. noise_power: (N, M + 1, F) at
        `texture.FREQUENCIES`. edge_px: (N, M + 1) width of edges, 10 to 90 %. NaN: undefined.
        pixel_mm: (N,) side of a pixel, NaN where unknown. patients: (N,) int codes.
    """

    ways: np.ndarray
    windows: np.ndarray
    bounds: np.ndarray
    settings: np.ndarray
    psnr_db: np.ndarray
    ssim: np.ndarray
    rmse: np.ndarray
    bias: np.ndarray
    noise_std: np.ndarray
    noise_power: np.ndarray
    edge_px: np.ndarray
    pixel_mm: np.ndarray
    patients: np.ndarray

    @classmethod
    def of(
        cls,
        pictures: Sequence[dict[str, np.ndarray]],
        patients: Sequence[int] | np.ndarray,
        ways: Sequence[str],
        windows: Windows,
        settings: Mapping[str, float] | None = None,
    ) -> Pictures:
        """From what `compare` told of each picture.

        Args:
            ways: in the order that `compare` was given them. settings: of the filters, as `baselines.settle` chose.
        """
        names = ("psnr_db", "ssim", "rmse", "bias", "noise_std", "noise_power", "edge_px", "pixel_mm")
        shapes = _shapes(len(ways), len(windows))
        columns = {n: np.array([p[n] for p in pictures], np.float64).reshape(-1, *shapes[n]) for n in names}
        words = [described(way, (settings or {}).get(way)) for way in ways]
        bounds = np.array(list(windows.values()), np.float64).reshape(-1, 2)
        return cls(
            np.array(ways), np.array(list(windows)), bounds, np.array(words), **columns, patients=np.asarray(patients)
        )

    def arrays(self) -> dict[str, np.ndarray]:
        """Its fields, for a file."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Pictures:
        """Reads `arrays`; what else there is in it is left alone."""
        return cls(**{f.name: arrays[f.name] for f in fields(cls)})


def _shapes(ways: int, windows: int) -> dict[str, tuple[int, ...]]:
    by_window, by_way, and_true = (ways, windows), (ways,), (ways + 1,)
    power = (ways + 1, len(texture.FREQUENCIES))
    return {"psnr_db": by_window, "ssim": by_window, "rmse": by_way, "bias": by_way, "noise_std": and_true} | {
        "noise_power": power,
        "edge_px": and_true,
        "pixel_mm": (),
    }


def compare(
    made: Mapping[str, np.ndarray],
    target: np.ndarray,
    windows: Windows,
    pixel_mm: float | None = None,
    counted: np.ndarray | None = None,
) -> dict[str, np.ndarray]:
    """The numbers of one picture, as `Pictures` names them (without N).

    Args:
        made: {way: (C, H, W) or (H, W) in stored values}, such as {"output": ..., **baselines(...)}; "output" and
            "input" must be among them. target: the true picture, same shape.
        pixel_mm: side of its pixels, None where unknown.
        counted: (H, W) bool, the pixels that errors and likeness are taken over: neither padding nor cut off; None (or
            none of them): all.

    Raises:
        ValueError: shapes differ, a value is not finite, a window is empty, or output or input is missing.
    """
    target = _planes(target, "true")
    shown = {way: _planes(picture, way) for way, picture in made.items()}
    for way, picture in shown.items():
        if picture.shape != target.shape:
            raise ValueError(
                f"The picture {way!r} has shape {picture.shape}, the true one {target.shape}; expected the same."
            )
    for way in (OUTPUT, INPUT):
        if way not in shown:
            raise ValueError(
                f"The picture {way!r} is missing; both output and input are judged. Given: {', '.join(shown)}."
            )
    for name, (low, high) in windows.items():
        if not low < high:
            raise ValueError(f"The window {name!r} reaches from {low:g} to {high:g}; expected the low end first.")
    every = [*shown.values(), target]
    inside = np.ones(target.shape[1:], bool) if counted is None or not counted.any() else counted
    errors = [(picture[:, inside], target[:, inside]) for picture in shown.values()]
    differences = [picture - true for picture, true in errors]
    grey = [picture.mean(0) for picture in every]
    window = next(iter(windows.values()))
    squares = texture.flat_squares(grey[-1], grey[list(shown).index(INPUT)], window)
    edges = texture.strong_edges(grey[-1])
    return {
        "psnr_db": np.array([[psnr(picture, true, w) for w in windows.values()] for picture, true in errors]),
        "ssim": np.array([[ssim(picture, target, w, inside) for w in windows.values()] for picture in shown.values()]),
        "rmse": np.array([np.sqrt(np.mean(d**2)) for d in differences]),
        "bias": np.array([d.mean() for d in differences]),
        "noise_std": np.array([texture.noise_std(picture, squares) for picture in grey]),
        "noise_power": np.stack([texture.noise_power(picture, squares) for picture in grey]),
        "edge_px": np.array([texture.edge_width(picture, grey[-1], edges) for picture in grey]),
        "pixel_mm": np.array(pixel_mm if pixel_mm and math.isfinite(pixel_mm) and pixel_mm > 0 else math.nan),
    }


def _planes(picture: np.ndarray, name: str) -> np.ndarray:
    picture = np.asarray(picture, np.float64)
    if picture.ndim == 2:
        picture = picture[None]
    if picture.ndim != 3:
        raise ValueError(f"The picture {name!r} has shape {picture.shape}; expected (channels, rows, columns).")
    if not np.isfinite(picture).all():
        raise ValueError(f"The picture {name!r} holds values that are not finite numbers (NaN or infinity).")
    return picture


def ssim(
    picture: np.ndarray, target: np.ndarray, window: tuple[float, float], counted: np.ndarray | None = None
) -> float:
    """Structural similarity of two pictures (C, H, W) within a window, in -1..1, over the pixels that are `counted`
    (H, W) bool (None: all); NaN where a side is under 11 px."""
    if min(picture.shape[-2:]) < SSIM_SIDE:
        return math.nan
    from scipy.ndimage import gaussian_filter

    def near(values: np.ndarray) -> np.ndarray:
        return np.stack([gaussian_filter(v, 1.5, mode="mirror", radius=SSIM_SIDE // 2) for v in values])

    low, high = window
    one, other = ((np.clip(p, low, high).astype(np.float64) - low) / (high - low) for p in (picture, target))
    mean, true_mean = near(one), near(other)
    spread, true_spread = near(one**2) - mean**2, near(other**2) - true_mean**2
    common = near(one * other) - mean * true_mean
    light, contrast = 0.01**2, 0.03**2
    alike = (2 * mean * true_mean + light) * (2 * common + contrast)
    told = alike / ((mean**2 + true_mean**2 + light) * (spread + true_spread + contrast))
    return float(told.mean() if counted is None else told[:, counted].mean())


def scores(outputs: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> dict[str, float]:
    """{psnr_db, ssim, rmse} of pictures (C, H, W) in [0, 1], means over pictures, for the validation side while a
    network learns; what is undefined is left out."""
    pairs = list(zip(outputs, targets, strict=True))
    whole = (0.0, 1.0)
    told = {
        "psnr_db": [psnr(o, t, whole) for o, t in pairs],
        "ssim": [ssim(o, t, whole) for o, t in pairs],
        "rmse": [float(np.sqrt(np.mean((np.asarray(o, np.float64) - t) ** 2))) for o, t in pairs],
    }
    return {name: float(np.mean(v)) for name, v in told.items() if v and np.isfinite(v).all()}


_TOLD = 2000  # pictures whose figures are told one by one


def report(
    found: Pictures, resamples: int = RESAMPLES, seed: int = 0, *, unit: str = "", most: int = 24
) -> dict[str, Any]:
    """All figures on one set of pictures as plain JSON data.

    Args:
        unit: of the stored values, "HU" for CT. most: how many of the worst pictures are listed.
    Returns:
        {n, patients, unit, metrics {psnr_db, ssim (first window), rmse, bias (stored values), psnr_gain_db (over the
        input), psnr_gain_best_db (over the best filter, where there is one), noise_std, noise_ratio (to the input),
        noise_frequency (of the mean noise power, cycles per px), edge_px, edge_mm, edge_ratio (to the true picture):
        {value, low, high}}, best_baseline, windows {name: {low, high, data_range, ways {way: {psnr_db, ssim, gain_db
        (of the output over this way, picture by picture)}}}}, ways {way, and "true": {setting, rmse, bias, noise_std,
        noise_frequency, edge_px}}, noise_power {cycles_per_px, ways {way: [...]}}, quartiles {psnr_db, ssim, rmse:
        [lower, median, upper]} of the output, per_picture {psnr_db, ssim: {way: [a number a picture]}} (first window,
        up to 2,000 pictures), worst [{picture, psnr_db, ssim, rmse, gain_db}] (the least gain over the
        input first), interval, notes}. Figures are means over pictures; the two ratios are ratios of means.
    """
    ways, windows = [str(way) for way in found.ways], [str(window) for window in found.windows]
    best = _best_filter(found)
    figures = _figures(found, best)
    told = bootstrap.intervals(figures, found.patients, resamples, seed, shares=(), defined=_defined(found))
    out = ways.index(OUTPUT)
    return {
        "n": len(found.patients),
        "patients": len(np.unique(found.patients)),
        "unit": unit,
        "metrics": {name: figure for name, figure in told.items() if "/" not in name},
        "best_baseline": None if best is None else ways[best],
        "windows": {
            name: {
                "low": float(low),
                "high": float(high),
                "data_range": float(high - low),
                "ways": {
                    way: {key: told[f"{key}/{name}"][k] for key in ("psnr_db", "ssim", "gain_db")}
                    for k, way in enumerate(ways)
                },
            }
            for name, (low, high) in zip(windows, found.bounds, strict=True)
        },
        "ways": {
            way: {"setting": str(found.settings[k]) if k < len(ways) else ""}
            | {key: told[f"{key}/"][k] for key in ("rmse", "bias", "noise_std", "noise_frequency", "edge_px")}
            for k, way in enumerate([*ways, TRUE])
        },
        "noise_power": {
            "cycles_per_px": texture.FREQUENCIES.tolist(),
            "ways": {
                way: [_plain(value) for value in _mean(np.ones((1, len(found.patients))), found.noise_power[:, k])[0]]
                for k, way in enumerate([*ways, TRUE])
            },
        },
        "quartiles": {
            "psnr_db": _quartiles(found.psnr_db[:, out, 0]),
            "ssim": _quartiles(found.ssim[:, out, 0]),
            "rmse": _quartiles(found.rmse[:, out]),
        },
        "per_picture": {
            name: {way: [_plain(value) for value in table[:_TOLD, k, 0]] for k, way in enumerate(ways)}
            for name, table in (("psnr_db", found.psnr_db), ("ssim", found.ssim))
        },
        "worst": _worst(found, most),
        "interval": bootstrap.described(resamples),
        "notes": _remarks(found),
    }


def _places(found: Pictures) -> tuple[int, int]:
    """Where the network's output and the input stand among the ways."""
    ways = [str(way) for way in found.ways]
    return ways.index(OUTPUT), ways.index(INPUT)


def _best_filter(found: Pictures) -> int | None:
    """The filter with the best mean PSNR in the first window, as a position among the ways; None without one."""
    filters = [k for k in range(len(found.ways)) if k not in _places(found)]
    if not filters or not len(found.patients):
        return None
    return max(filters, key=lambda k: float(found.psnr_db[:, k, 0].mean()))


def _figures(found: Pictures, best: int | None) -> bootstrap.Figures:
    """All figures as a function of weights; those of every way are (B, M + 1), the true picture last."""
    out, came = _places(found)
    first = {"psnr_db": found.psnr_db[:, out, 0], "ssim": found.ssim[:, out, 0]}
    first |= {"rmse": found.rmse[:, out], "bias": found.bias[:, out]}
    first["psnr_gain_db"] = found.psnr_db[:, out, 0] - found.psnr_db[:, came, 0]
    if best is not None:
        first["psnr_gain_best_db"] = found.psnr_db[:, out, 0] - found.psnr_db[:, best, 0]
    first["noise_std"] = found.noise_std[:, out]
    first["edge_px"] = found.edge_px[:, out]
    first["edge_mm"] = found.edge_px[:, out] * found.pixel_mm
    of_pictures = bootstrap.means(first)
    by_way = {"rmse/": found.rmse, "bias/": found.bias}
    for k, window in enumerate(found.windows):
        by_way |= {f"psnr_db/{window}": found.psnr_db[:, :, k], f"ssim/{window}": found.ssim[:, :, k]}
        by_way[f"gain_db/{window}"] = found.psnr_db[:, out : out + 1, k] - found.psnr_db[:, :, k]
    nothing = np.full((len(found.patients), 1), np.nan)  # the true picture has no error
    by_way = {name: np.concatenate([values, nothing], axis=1) for name, values in by_way.items()}
    by_way |= {"noise_std/": found.noise_std, "edge_px/": found.edge_px}

    def figures(weights: np.ndarray) -> dict[str, np.ndarray]:
        told = of_pictures(weights) | {name: _mean(weights, values) for name, values in by_way.items()}
        told["noise_ratio"] = _mean_ratio(weights, found.noise_std[:, out], found.noise_std[:, came])
        told["edge_ratio"] = _mean_ratio(weights, found.edge_px[:, out], found.edge_px[:, -1])
        power = _mean(weights, found.noise_power)
        told["noise_frequency/"] = ratio((power * texture.FREQUENCIES).sum(2), power.sum(2))
        told["noise_frequency"] = told["noise_frequency/"][:, out]
        return told

    return figures


def truth(found: Pictures) -> dict[str, np.ndarray]:
    """What is the same in two sets of pictures that were judged alike, whatever was made of them: the windows, and by
    what they show of the noise of the true picture and of how near the input comes to it, the pictures themselves."""
    _, came = _places(found)
    return {"windows": found.bounds, "pictures": np.column_stack([found.noise_std[:, -1], found.psnr_db[:, came]])}


def _defined(found: Pictures) -> dict[str, np.ndarray]:
    """{figure: (N,) bool, the pictures that have it} of those that a picture may lack."""
    out, came = _places(found)
    noise, edge = np.isfinite(found.noise_std), np.isfinite(found.edge_px)
    return {
        "ssim": np.isfinite(found.ssim[:, out, 0]),
        "noise_std": noise[:, out],
        "noise_ratio": noise[:, out] & noise[:, came],
        "noise_frequency": np.isfinite(found.noise_power[:, out]).all(1),
        "edge_px": edge[:, out],
        "edge_mm": edge[:, out] & np.isfinite(found.pixel_mm),
        "edge_ratio": edge[:, out] & edge[:, -1],
    }


def _mean(weights: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Means over pictures for each row of `weights` (B, N), leaving out what is undefined: (N, ...) -> (B, ...)."""
    flat = values.reshape(len(values), math.prod(values.shape[1:]))
    known = np.isfinite(flat)
    mean = ratio(weights @ np.where(known, flat, 0.0), weights @ known.astype(np.float64))
    return mean.reshape(len(weights), *values.shape[1:])


def _mean_ratio(weights: np.ndarray, above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Ratio of two means over the pictures that have both: (B,)."""
    known = np.isfinite(above) & np.isfinite(below)
    return ratio(weights @ np.where(known, above, 0.0), weights @ np.where(known, below, 0.0))


def _quartiles(values: np.ndarray) -> list[float] | None:
    values = values[np.isfinite(values)]
    return [float(q) for q in np.percentile(values, (25, 50, 75))] if len(values) else None


def _worst(found: Pictures, most: int) -> list[dict[str, Any]]:
    """Pictures of which the network made the least, compared with the input."""
    out, came = _places(found)
    gain = found.psnr_db[:, out, 0] - found.psnr_db[:, came, 0]
    return [
        {
            "picture": int(k),
            "psnr_db": _plain(found.psnr_db[k, out, 0]),
            "ssim": _plain(found.ssim[k, out, 0]),
            "rmse": _plain(found.rmse[k, out]),
            "gain_db": _plain(gain[k]),
        }
        for k in np.argsort(gain, kind="stable")[:most]
    ]


def _plain(value: float) -> float | None:
    return round(float(value), 6) if math.isfinite(value) else None


def _remarks(found: Pictures) -> list[str]:
    out, _ = _places(found)
    said = []
    patients = len(np.unique(found.patients))
    if patients < 10:
        who = "one patient" if patients == 1 else f"{patients} patients" if patients else "no patient"
        said.append(f"These pictures are of {who}: the intervals tell little.")
    same = int((found.psnr_db[:, out, 0] >= MOST_DB).sum())
    if same:
        many = "One picture equals" if same == 1 else f"{same} pictures equal"
        said.append(f"{many} the true one within the window: PSNR counts {MOST_DB:g} dB there.")
    if len(found.patients) and np.isnan(found.ssim[:, out, 0]).all():
        said.append(f"The pictures are smaller than {SSIM_SIDE} px, so SSIM is undefined.")
    if len(found.patients) and np.isnan(found.noise_std[:, out]).all():
        said.append(f"No flat square of {texture.SIDE} px within the window is there to tell the noise from.")
    if len(found.patients) and np.isnan(found.edge_px[:, out]).all():
        said.append("No edge is there to tell the sharpness from.")
    return said
