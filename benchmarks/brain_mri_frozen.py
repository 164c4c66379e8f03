"""Brain MRI in four classes without training: what frozen features reach on the same five folds, and what limits them.

    python benchmarks/brain_mri_frozen.py [--folder ../shared/data/brain_tumor_mri_4class] [--folds 5]

The folds are those of `brain_mri_folds.py` (a picture and its near-duplicates in one), each picture held out once. The
features are those of the packaged EfficientNet-Lite0 as ImageNet left it; logistic regression on them takes seconds, so
that here can be asked what a trained network cannot be asked in an hour: what size and depths are worth, how hard each
fold is, and how the figure rises with the number of pictures learned from. Strength, sizes and depths were chosen
by looking at the 608 pictures that the first fold learns from, and the other four hold these out: of four folds the
figures are flattered a little. Writes benchmarks/results/brain_mri_frozen.json and .md.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import trials  # noqa: E402
from brain_mri_folds import PROMISE, together  # noqa: E402

from builder import folds, network  # noqa: E402
from builder.curve_fit import fit  # noqa: E402
from builder.data import Dataset, prepare  # noqa: E402
from builder.spec import Data, Experiment, Node  # noqa: E402

SIZES_PX = (160, 224)
DEPTHS = (3, 4, 5)
CHANNELS = (40, 112, 320)  # of tf_efficientnet_lite0 at these
STRENGTH = 0.03  # C of the logistic regression
SHARES = (0.125, 0.25, 0.5, 1.0)
DRAWS = 1000
IMAGENET = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
WAYS: dict[str, tuple[tuple[int, ...], tuple[int, ...], bool]] = {
    "160 px, last depth": ((160,), (5,), False),
    "224 px, last depth": ((224,), (5,), False),
    "224 px, three depths": ((224,), DEPTHS, False),
    "160 and 224 px, three depths, mirrored": (SIZES_PX, DEPTHS, True),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=ROOT.parent / "shared" / "data" / "brain_tumor_mri_4class")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--home", type=Path, default=ROOT / "build" / "benchmarks" / "brain-mri-folds")
    arguments = parser.parse_args()
    began = time.monotonic()
    dataset = together(arguments.home, arguments.folder)
    labels, groups = dataset.labels, np.array(folds.groups_of(dataset))
    seen = {size: features(dataset, size) for size in SIZES_PX}
    held = parted(dataset, arguments.folds)
    ways: dict[str, Any] = {}
    for name, way in WAYS.items():
        right = answered(seen, way, labels, held, np.ones(len(labels), bool))
        ways[name] = {**told(right, groups), "folds": [float(right[out].mean()) for out in held]}
    best = list(WAYS)[-1]
    sizes, curve = [], []
    for share in SHARES:
        subsets = folds.nested_subsets(groups.tolist(), [[str(k)] for k in labels], [share])[0]
        chosen = np.array([group in subsets for group in groups.tolist()])
        curve.append(answered(seen, WAYS[best], labels, held, chosen))
        sizes.append(float(np.mean([(chosen & ~out).sum() for out in held])))
    drawn = np.stack([resampled(right, groups) for right in curve], 1)
    law = fit(np.array(sizes), drawn)
    wanted = law.size_for(PROMISE - float(law.at(np.array(sizes[-1:]))[0, 0]), sizes[-1])
    measured = {
        "command": "python benchmarks/brain_mri_frozen.py",
        "n": len(labels),
        "groups": len(set(groups.tolist())),
        "promise": {"accuracy": PROMISE},
        "ways": ways,
        "curve": [{"learned_from": n, **told(r, groups)} for n, r in zip(sizes, curve, strict=True)],
        "needed": {
            name: whole(np.quantile(wanted, at, method="nearest")) for name, at in (("low", 0.1), ("high", 0.9))
        },
        "needed_value": whole(wanted[0]),
        "seconds": round(time.monotonic() - began, 1),
    }
    trials.write("brain_mri_frozen", measured, page(measured))
    return 0


def features(dataset: Dataset, size: int) -> dict[tuple[int, bool], np.ndarray]:
    """{(depth, mirrored): (N, F) float32}, mean and maximum of each channel of a stage; kept beside the data set."""
    kept = dataset.folder / f"frozen-{size}.npz"
    if not kept.is_file():
        import torch

        data = Data(dataset=dataset.id, size_px=size, colour="rgb", normalize="imagenet")
        backbone = {"model": "tf_efficientnet_lite0", "weights": "installed package", "output": "stages"}
        nodes = [Node(id="backbone", name="timm_backbone", params=backbone)]
        for depth in DEPTHS:
            pool = Node(id=f"pool_{depth}", name="global_pool", params={"kind": "both"}, inputs=(f"backbone:{depth}",))
            nodes.append(pool)
        nodes.append(Node(id="scales", name="concatenate", inputs=tuple(f"pool_{depth}" for depth in DEPTHS)))
        net = network.assemble_of(Experiment(name="frozen", data=data, network=tuple(nodes)), 2).eval()
        mean, std = (values.astype(np.float32).reshape(3, 1, 1) for values in IMAGENET)
        rows: list[list[np.ndarray]] = [[], []]
        with torch.inference_mode():
            for start in range(0, len(dataset), 8):
                cases = range(start, min(start + 8, len(dataset)))
                images = torch.from_numpy(np.stack([(prepare(dataset.scan(k), data) - mean) / std for k in cases]))
                for mirrored, found in enumerate(rows):
                    found.append(net(images.flip(3) if mirrored else images).numpy())
        np.savez(kept, plain=np.concatenate(rows[0]), mirrored=np.concatenate(rows[1]))
    ends = np.cumsum([2 * channels for channels in CHANNELS])[:-1]
    with np.load(kept, allow_pickle=False) as stored:
        tables = {False: stored["plain"], True: stored["mirrored"]}
    parts = {mirrored: np.split(table, ends, 1) for mirrored, table in tables.items()}
    return {(depth, mirrored): parts[mirrored][k] for mirrored in parts for k, depth in enumerate(DEPTHS)}


def parted(dataset: Dataset, num: int) -> list[np.ndarray]:
    """bool (N,) of each fold: who is held out; the folds of `crossvalidate` with its seed 0."""
    sides = folds.sides_of_folds(dataset, folds.pool(dataset), num)
    return [np.array([one.get(case.id) == "test" for case in dataset.cases]) for one in sides]


def answered(
    seen: dict[int, dict[tuple[int, bool], np.ndarray]],
    way: tuple[tuple[int, ...], tuple[int, ...], bool],
    labels: np.ndarray,
    held: list[np.ndarray],
    chosen: np.ndarray,
) -> np.ndarray:
    """bool (N,): whether each picture was told rightly by what learned from those `chosen` (N,) that its fold keeps.

    With mirrored features a picture is learned from twice and asked twice, and its answers are averaged.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    sizes, depths, both = way
    views = [
        np.concatenate([seen[size][depth, mirrored] for size in sizes for depth in depths], 1)
        for mirrored in ((False, True) if both else (False,))
    ]
    right = np.zeros(len(labels), bool)
    for out in held:
        learned = chosen & ~out
        model = make_pipeline(StandardScaler(), LogisticRegression(C=STRENGTH, class_weight="balanced", max_iter=400))
        model.fit(np.concatenate([view[learned] for view in views]), np.tile(labels[learned], len(views)))
        scores = sum(model.predict_proba(view[out]) for view in views)
        right[out] = model.classes_[scores.argmax(1)] == labels[out]
    return right


def resampled(right: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """(1 + DRAWS,) float64: the share of right answers, then that on groups drawn anew, the same draws for all."""
    _, of = np.unique(groups, return_inverse=True)
    num = int(of.max()) + 1
    hits, counts = np.bincount(of, right, num), np.bincount(of, minlength=num)
    drawn = np.random.default_rng(0).multinomial(num, np.full(num, 1 / num), DRAWS)
    return np.concatenate([[right.mean()], drawn @ hits / (drawn @ counts)])


def told(right: np.ndarray, groups: np.ndarray) -> dict[str, float]:
    """{value, low, high} of the accuracy, 95 % over groups of near-duplicates."""
    drawn = resampled(right, groups)
    low, high = np.quantile(drawn[1:], (0.025, 0.975))
    return {"value": float(drawn[0]), "low": float(low), "high": float(high)}


def whole(number: float) -> int | None:
    """A number of pictures; None where the law never gets there."""
    return int(round(float(number), -1)) if np.isfinite(number) and number < 1e6 else None


def page(measured: dict[str, Any]) -> list[str]:
    """The results as Markdown."""
    value, low = measured["needed_value"], measured["needed"]["low"]
    rise = measured["curve"][-1]["value"] - measured["curve"][-2]["value"]
    reach = f"at {value:,} pictures" if value else "at no number of pictures: frozen features level off below it"
    early = (
        f"the most hopeful tenth of its draws at {low:,} or fewer"
        if low
        else "not even its most hopeful tenth of draws"
    )
    return [
        "# Brain MRI in four classes, frozen features, five folds: what limits the figure",
        "",
        f"{measured['n']} pictures of both folders in {measured['groups']} groups of near-duplicates, each held out "
        f"once; tf_efficientnet_lite0 as ImageNet left it, logistic regression (C = {STRENGTH:g}) on all that a fold "
        "does not hold out. 95 % over groups. Strength, sizes and depths were chosen by looking at the 608 pictures "
        "that the first fold learns from, and the other four hold these out: of four the figures are flattered.",
        "",
        "| features | accuracy, pooled | by fold |",
        "|---|---|---|",
        *(
            f"| {name} | {trials.interval(row)} | {', '.join(f'{value:.2f}' for value in row['folds'])} |"
            for name, row in measured["ways"].items()
        ),
        "",
        "How it rises with what is learned from (the last of these features):",
        "",
        "| pictures learned from | accuracy, pooled |",
        "|---|---|",
        *(f"| {row['learned_from']:.0f} | {trials.interval(row)} |" for row in measured["curve"]),
        "",
        f"The last doubling brought {100 * rise:.1f} points. A law through these (`forecast`'s own) reaches {PROMISE} "
        f"{reach}; {early}. So with 760 pictures {PROMISE} has to come from fine-tuning, if at all; a network that is "
        "fine-tuned may go on to rise where frozen features do not. The whole collection has 7,019 pictures.",
    ]


if __name__ == "__main__":
    sys.exit(main())
