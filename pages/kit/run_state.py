"""How a run stands: words, progress, time left, the latest numbers."""

from __future__ import annotations

import streamlit as st

from builder.measures.named import figure
from builder.runs import Run, RunView
from pages.kit import curves
from pages.kit.pairs import band
from pages.kit.words import duration, plain, size

__all__ = ["left_words", "pace_words", "state"]

_DEVICES = {"cpu": "Processor", "cuda": "GPU"}
_PACES = 8  # looks, at most four a second
_ETA_STEPS = 5  # a rate from fewer steps than this is a guess


def state(run: Run, view: RunView) -> None:
    """How the run stands: words, progress, time left, the latest numbers."""
    where = f"epoch {view.epoch} of {view.epochs}" if view.epochs else ""
    if view.active:
        share = min(1.0, view.step / view.total) if view.total else 0.0
        told = [f"**{view.status.capitalize()}**", where, left_words(view), pace_words(view), view.note]
        if view.stopping:
            told = ["**Stopping**", "the present state is being saved"]
        elif view.pausing:
            told = ["**Pausing**", where, "the present state is being saved"]
        elif view.status == "paused":
            told = ["**Paused**", where, "its network stays in memory; its place is free for another training"]
        st.progress(share, text=" · ".join(filter(None, [told[0], *(plain(w) for w in told[1:])])))
        if view.reason:
            st.caption(plain(view.reason))
    elif view.status == "done":
        st.success(plain(view.reason) or "Done.", icon=":material/check_circle:")
    elif view.status == "stopped":
        st.info(f"Stopped at {where}. {plain(view.reason)}", icon=":material/stop_circle:")
    else:
        words = {"lost": "Lost.", "failed": "Failed."}.get(view.status, view.status)
        kept = " What was saved is kept: press Resume to go on from there." if view.resumable else ""
        st.error(f"**{words}** {plain(view.reason)}{kept}", icon=":material/error:")
    for warning in view.warnings[-3:]:
        st.warning(plain(warning), icon=":material/warning:")
    numbers(view)


def numbers(view: RunView) -> None:
    """The latest numbers of the run; once it has ended, those of the epoch whose network is kept."""
    best = view.best or {}
    rows = []
    monitor = str(best.get("metric") or "") if best.get("value") is not None else ""
    if monitor:
        rows.append((f"Best {curves.name_words(monitor)}, epoch {best['epoch']}", figure(monitor, best["value"])))
    for name in ("val/accuracy", "val/loss", "train/loss"):
        value, when = view.metrics.get(name), " now" if view.active else ""
        if not view.active and monitor:
            value, when = curves.best_value(view, name), f", epoch {best['epoch']}"
            if name == monitor:
                continue
        if value is not None:
            rows.append((f"{curves.title(name)}{when}", figure(name, value)))
    if view.attempt:
        rows.append((f"{_DEVICES.get(view.device, view.device or 'Computing')} time", duration(view.seconds)))
        memory = curves.latest(view, "step/memory_mb")
        if memory:
            rows.append(("Memory", size(1e6 * memory)))
        if card := curves.latest(view, "step/gpu_memory_mb"):
            rows.append(("Memory of the GPU", size(1e6 * card)))
        band(rows)


def left_words(view: RunView) -> str:
    """How long it may still take, from the pace so far; "" where nothing can be said yet."""
    if view.status != "running" or not view.total or view.step_s is None or view.own_steps < _ETA_STEPS:
        return ""
    seconds = view.step_s * (view.total - view.step)
    if seconds < 90:
        return f"about {duration(max(5, 5 * round(seconds / 5)))} left"
    return f"about {duration(60 * round(seconds / 60))} left".replace(" 00 s", "")


def pace_words(view: RunView) -> str:
    """How fast it goes, from the newest looks; "" where nothing can be said yet."""
    paces = view.curves.get("step/scans_per_s", ([], []))[1][-_PACES:]
    return f"{sum(paces) / len(paces):,.0f} scans a second" if view.status == "running" and paces else ""
