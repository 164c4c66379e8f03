"""The same numbers as TensorBoard event files, for whoever likes TensorBoard better than our pages.

Written here with TensorBoard's own records and not through `SummaryWriter`, for three reasons: that one writes from a
thread (a full disk shows up somewhere else and later), it names the file after this computer, and it cannot sync.
"""

from __future__ import annotations

import math
import os
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import film
from builder.runs import EpochEnded, Event, Finished, Pictured, Probed, Progress, Resumed, Saved, append_whole

if TYPE_CHECKING:
    from builder.graph import Graph

_PICTURE_S = 0.03  # what a picture is taken to cost before the first one was drawn


class Board:
    """Mirrors the events of one attempt into `folder`/tb. OSError when the disk is full; what is there stays whole."""

    def __init__(self, folder: Path, attempt: int, classes: Sequence[str] = (), leaky: str = "") -> None:
        """classes: their names, for pictures and precision-recall curves. leaky: the stamp of a run that learns from a
        known leak (`leaks.Leak.stamp`), which the file carries in its name, its text and its hyperparameters."""
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, tensor_shape_pb2
        from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c

        self._tensor, self._tensors = tensor_pb2, tensor_shape_pb2
        self._protos, self._summaries, self._crc = event_pb2, summary_pb2, masked_crc32c
        self.folder, self.classes, self.leaky = folder, tuple(classes), leaky
        self._last: dict[str, float] = {}
        self._began, self._spent_s, self._costs_s = time.monotonic(), 0.0, _PICTURE_S
        self._owed: tuple[Pictured, dict[str, Any]] | None = None
        place = folder / "tb"
        place.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{int(time.time()):010d}.scanloom.{attempt}{f'.{self._word}' if leaky else ''}"
        self._fd = os.open(place / name, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._write(file_version="brain.Event:2")

    @property
    def _word(self) -> str:
        """The first word of the stamp: LEAKY."""
        return self.leaky.partition(":")[0]

    def add(self, event: Event) -> None:
        """Adds the numbers of `event`, if it has any; on `Resumed` tells TensorBoard to forget what came after."""
        if isinstance(event, Progress | EpochEnded):
            self._numbers(event.step, event.metrics)
            if isinstance(event, EpochEnded):
                self._last = event.metrics
        elif isinstance(event, Saved) and event.best:  # what the hyperparameters page shows: the kept network's scores
            self._numbers(event.step, {f"best/{name}": value for name, value in self._last.items()})
        elif isinstance(event, Pictured):
            self._picture(event)
        elif isinstance(event, Probed):
            tags = {f"layers/{m}/{id}": v for id, numbers in event.layers.items() for m, v in numbers.items()}
            self._numbers(event.step, {name: value for name, value in tags.items() if math.isfinite(value)})
        elif isinstance(event, Finished):  # nothing waits for it any more: the last picture may cost what it does
            if self._owed is not None:
                self._draw(*self._owed)
        elif isinstance(event, Resumed):
            start = self._protos.SessionLog(status=self._protos.SessionLog.START)
            self._write(step=event.step + 1 if event.step else 0, session_log=start)

    def _numbers(self, step: int, metrics: Mapping[str, float]) -> None:
        values = [self._summaries.Summary.Value(tag=k, simple_value=float(v)) for k, v in metrics.items()]
        if values:
            self._write(step=step, summary=self._summaries.Summary(value=values))

    def _picture(self, event: Pictured) -> None:
        """Draws the epoch where all pictures take no more than their share of the run's time; else keeps what it needs
        until the run ends, so that even the shortest one has a last picture."""
        told = film.read_spreads(self.folder, event.epoch)
        if self._spent_s + self._costs_s > film.SHARE * (time.monotonic() - self._began):
            self._owed = event, told
            return
        self._draw(event, told)

    def _draw(self, event: Pictured, told: Mapping[str, Any]) -> None:
        """The film as a picture, how weights and gradients are spread, and a precision-recall curve for each class."""
        from tensorboard.plugins.pr_curve import metadata

        began, self._owed = time.monotonic(), None
        made = self._summaries
        values = []
        try:
            strip = film.strip(self.folder, event.epoch, self.classes)
        except OSError:  # a damaged picture of a film must not end a training
            strip = None
        if strip is not None:
            image = made.Summary.Image(encoded_image_string=strip[0], height=strip[1], width=strip[2], colorspace=3)
            values.append(made.Summary.Value(tag="film", image=image))
        for name, spread in told["spreads"].items():
            histogram = made.HistogramProto(
                min=spread["min"],
                max=spread["max"],
                num=spread["num"],
                sum=spread["sum"],
                sum_squares=spread["squares"],
                bucket_limit=spread["limits"],
                bucket=spread["counts"],
            )
            values.append(made.Summary.Value(tag=name, histo=histogram))
        for label, rows in told["trade_off"].items():
            k = int(label)
            name = self.classes[k] if k < len(self.classes) else label
            kind = metadata.create_summary_metadata(f"val/{name}", "Validation side", len(rows[0]))
            flat = struct.pack(f"<{len(rows) * len(rows[0])}f", *(v for row in rows for v in row))
            shape = self._tensors.TensorShapeProto
            sizes = [shape.Dim(size=len(rows)), shape.Dim(size=len(rows[0]))]
            tensor = self._tensor.TensorProto(dtype="DT_FLOAT", tensor_content=flat, tensor_shape=shape(dim=sizes))
            values.append(made.Summary.Value(tag=f"val/{name}", metadata=kind, tensor=tensor))
        if values:
            self._write(step=event.step, summary=made.Summary(value=values))
        self._costs_s = time.monotonic() - began
        self._spent_s += self._costs_s

    def describe(self, document: Mapping[str, Any], scores: Sequence[str] = ()) -> None:
        """Adds the settings of an experiment (as plain JSON) as text and as hyperparameters, without its given name.

        Args:
            scores: of the validation side; TensorBoard shows those of the kept network beside the hyperparameters.
        """
        import json

        from torch.utils.tensorboard.summary import hparams, text

        kept = {name: value for name, value in document.items() if name != "name"}
        words = "```json\n" + json.dumps(kept, indent=1) + "\n```"
        self._write(step=0, summary=text("experiment", words))
        settings = flat({name: kept.get(name) or {} for name in ("data", "training")})
        if self.leaky:
            self._write(step=0, summary=text(self._word, f"**{self.leaky}**"))
            settings = {self._word: self.leaky, **settings}
        for summary in hparams(settings, {f"best/val/{name}": 0.0 for name in scores}):
            self._write(step=0, summary=summary)

    def draw(self, graph: Graph) -> None:
        """Adds the computational graph, forward and back, a group a layer: TensorBoard's own Graphs page shows it."""
        from tensorboard.compat.proto import graph_pb2, node_def_pb2, tensor_shape_pb2, versions_pb2

        way = {"backward": "back/", "weight": "back/weights/"}
        names = {o.id: f"{o.layer}/{way.get(o.kind, '')}{o.note or o.name.strip('_')}_{o.id}" for o in graph.operations}
        inputs: dict[str, list[str]] = {o.id: [] for o in graph.operations}
        for source, target in (*graph.forward, *graph.backward):
            inputs[target].append(names[source])
        nodes = []
        for operation in graph.operations:
            node = node_def_pb2.NodeDef(name=names[operation.id], op=operation.name, input=inputs[operation.id])
            if operation.shape:
                sizes = [tensor_shape_pb2.TensorShapeProto.Dim(size=n) for n in operation.shape]
                node.attr["_output_shapes"].list.shape.extend([tensor_shape_pb2.TensorShapeProto(dim=sizes)])
            nodes.append(node)
        drawn = graph_pb2.GraphDef(node=nodes, versions=versions_pb2.VersionDef(producer=22))
        self._write(graph_def=drawn.SerializeToString())

    def _write(self, **content: Any) -> None:
        data = self._protos.Event(wall_time=time.time(), **content).SerializeToString()
        header = struct.pack("<Q", len(data))
        record = header + struct.pack("<I", self._crc(header)) + data + struct.pack("<I", self._crc(data))
        append_whole(self._fd, record)

    def close(self) -> None:
        os.close(self._fd)


def flat(document: Mapping[str, Any], path: str = "") -> dict[str, float | int | bool | str]:
    """{"training.optimizer.params.lr": 0.001, ...}: the plain values of a nested document under their paths."""
    found: dict[str, float | int | bool | str] = {}
    for name, value in document.items():
        here = f"{path}.{name}" if path else name
        if isinstance(value, Mapping):
            found |= flat(value, here)
        elif isinstance(value, list | tuple):
            found |= flat({str(v["name"]): v.get("params") or {} for v in value if isinstance(v, Mapping)}, here)
        elif isinstance(value, bool | int | float | str):
            found[here] = value
    return found
