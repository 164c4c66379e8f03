"""One run in the making: what learns, what it learns from, where it is, and how that is kept.

The loop that drives it is `train`; here is what one step, one epoch's judgement and one checkpoint consist of.
"""

from __future__ import annotations

import hashlib
import json
import math
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from builder import averaging, carrying, checkpoint, memory, network, optim, views, ways, weights
from builder.augment import Augment
from builder.batches import Scans, balanced, by_channel, normalization, permutation, updates
from builder.branch import PARENT, PEAK, Branch
from builder.checkpoint import CheckpointError
from builder.data import Dataset, Prepared
from builder.film import Film
from builder.health import Watch
from builder.measures.named import spoken
from builder.parallel import ALONE, Team
from builder.parts.images import AUGMENTATIONS
from builder.parts.training import OPTIMIZERS
from builder.runs import OF, Branched, Broke, Event, Noted, Pictured, Resumed, Warned
from builder.shares import owner, shares, still
from builder.spec import Choice, Experiment
from builder.targets import Targets
from builder.task import Task, learned_cases
from builder.tripwire import Tripped, Tripwire

LAST = "last"  # last-<number>.pt: everything needed to go on
BEST = "best.safetensors"  # the weights of the best epoch, with what is needed to use them
_NAMED = 8  # scans of a batch that are told one by one
_MOST_CLASSES = 8  # whose own scores are told: more curves nobody reads
_SAMPLE = 2  # keeps the choice of the judged training scans apart from the order
_LEAST_SAMPLE = 32
_SEEN_AGAIN_S = 60.0  # to find out in which layer numbers ran away on a GPU
_AUGMENT = 1  # keeps the random numbers of augmentation apart from those of the order


class NotFinite(Exception):
    """Training has run away; the message says where, and so does `broke`, as facts."""

    def __init__(self, message: str, broke: Broke) -> None:
        super().__init__(message)
        self.broke = broke


@dataclass
class Place:
    """Where a run is: all that changes while it learns, besides weights, optimizer and random state.

    epoch counts from 1, `update` is the number of optimizer steps done within it, `step` over the whole run. `loss_sum`
    and `count` are over the scans of this epoch. `best` is None until an epoch has ended, `best_loss` is the loss of
    that epoch; `stale` counts the epochs since one was better by more than `training.min_delta` than `bar`, the score
    of the last one that was.
    """

    epoch: int = 1
    update: int = 0
    step: int = 0
    loss_sum: float = 0.0
    count: int = 0
    seconds: float = 0.0
    monitor: str = ""
    best: float | None = None
    best_loss: float = math.inf
    best_epoch: int = 0
    stale: int = 0
    bar: float | None = None


class Learner:
    """One run in the making: network, optimizer, schedule, scans, and the place where it is."""

    def __init__(
        self,
        experiment: Experiment,
        task: Task,
        dataset: Dataset,
        prepared: Prepared,
        folder: Path,
        device: torch.device,
        team: Team = ALONE,
    ) -> None:
        training = experiment.training
        self.team = team
        self.experiment, self.task, self.dataset, self.prepared = experiment, task, dataset, prepared
        self.folder, self.device = folder, device
        train, val = (
            Targets(dataset, experiment.data, prepared, cases, task.learns, judged)
            for cases, judged in (
                (learned_cases(task, dataset, experiment), False),
                (task.cases(dataset, experiment, "val"), True),
            )
        )
        if not len(train):
            raise ValueError("There are no training scans with a label: import some, or change the split.")
        _seed_everything(training.seed)
        # The order in memory that convolutions of pictures like best exists for four dimensions only.
        last = training.channels_last and experiment.data.layout == "maps"
        self.memory_format = torch.channels_last if last else torch.contiguous_format
        model = network.assemble_of(experiment, len(dataset.classes), seed=training.seed)
        self.model = model.to(device=device, memory_format=self.memory_format)  # type: ignore[call-overload]
        resident = training.resident == "auto"
        self.train = Scans(prepared, train, device, resident)
        self.val = Scans(prepared, val, device, resident) if len(val) else None
        self.mean, self.std = (
            by_channel(values, experiment.data, device) for values in normalization(experiment, prepared)
        )
        objective = task.objective(experiment, self.model, train)
        self.objective = objective.to(device) if isinstance(objective, nn.Module) else objective
        self.augment = Augment(
            (Choice(name=c.name, params=optim.settings(AUGMENTATIONS[c.name], c)) for c in training.augment),
            layout=experiment.data.layout,
            border=training.border,
        )
        begun = weights.reached(self.model, experiment.weights).begun if experiment.weights else ()
        otherwise = shares(experiment, begun)
        self.optimizer = optim.optimizer(training.optimizer, self.model, training.l2, otherwise)
        # After the optimizer: a run that an older ScanLoom began has these layers in its state, too.
        self.model.hold(still(experiment))
        self.penalized = optim.penalized(self.model, otherwise)
        self.average = averaging.average(training.average, self.model, training.epochs)
        self.learned = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.updates = updates(len(train), training.batch_size, training.accumulate)
        self.kinds = train.kinds() if training.balance == "sampler" else np.zeros(0, np.int64)
        self.schedule = optim.Schedule(
            training.schedule,
            self.optimizer,
            len(self.updates),
            training.epochs,
            training.average,
            optim.settings(OPTIMIZERS[training.optimizer.name], training.optimizer)["lr"],
        )
        self.watch = Watch(self.model, experiment, len(dataset.classes), len(self.updates) * training.epochs)
        self.place = Place(monitor=training.monitor)
        self.room = memory.Room(self.model, training.batch_size, device)
        # A run goes on exactly only over the very scans, sides and normalization it began with.
        facts = [*train.facts(), *val.facts(), prepared.mean, prepared.std, np.array(prepared.unit)]
        parts = b"|".join(np.ascontiguousarray(fact).tobytes() for fact in facts)
        self.scans_digest = hashlib.sha256(parts).hexdigest()
        self.half = _half(training.mixed_precision, device)
        # float16 reaches down to 6e-8 only: losses are scaled up on the way back, steps that overflow are left out.
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.half == torch.float16)
        self.way = ways.Way(self.model, training.compile, device)
        self.sample = _sample(len(train), training.seed)
        self.rate = 0.0
        self.settled: dict[str, float] = {}  # by the last judgement
        # The sum over the epoch stays on the device: adding to it never waits for it.
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=device)
        self.norm = torch.zeros((), device=device)
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        self.wire = Tripwire(named, device) if device.type != "cpu" else None
        self.batch = np.zeros(0, np.int64)  # positions of the scans in the latest step
        self.seen = (1, 0.0, 0)  # epoch, loss_sum and count at the last look
        self.timed = (time.monotonic(), 0)
        self.process = psutil.Process()
        if team.size > 1:
            team.join_norms(self.model)
            self.way.chosen = ways.PLAIN
        seen = (self.mean.cpu().numpy(), self.std.cpu().numpy())
        self.film = Film(folder, task, experiment, self.val, *seen)

    # ---- learning ----

    def update(self, batches: Sequence[np.ndarray]) -> None:
        """One optimizer step over one or several batches of positions (gradients added up, each scan counting once)."""
        place, training, batches = self.place, self.experiment.training, self.room.pieces(batches)
        if not self.model.training:
            self.model.train()
        self.rate = self.schedule.set_rate(place.step)
        self.batch = np.concatenate(batches)
        self.watch.begin(place.step + 1)
        self.optimizer.zero_grad(set_to_none=True)
        chance = torch.Generator()
        if self.team.size == 1:
            chance.manual_seed(_mixed_seed(training.seed, place.epoch, place.update, _AUGMENT))
        else:
            own = _mixed_seed(training.seed, place.epoch, place.update, _AUGMENT, self.team.rank)
            chance.manual_seed(own)
            torch.manual_seed(own)  # dropout: other throws in each process, and the same ones again after a resume
        count = sum(map(len, batches))
        if self.team.size > 1:
            self._learn_together(batches, count, chance)
            batches = []
        for positions in batches:
            images, target = self.train.batch(positions, chance)
            images, target = self.task.vary(self.experiment, images, target, self.augment, chance)
            images = self.normalized(images)
            with self.precision():
                whole = len(positions) == training.batch_size and not self.watch.is_due(place.step + 1)
                loss = self.task.step(self.way.network(whole), images, target, self.objective).loss
            if self.wire is None and not math.isfinite(loss.item()):
                self.batch = positions
                raise self.where_it_broke(images)
            self.scaler.scale(loss if len(batches) == 1 else loss * (len(positions) / count)).backward()
            self.watch.passed()
            self.loss_sum.add_(loss.detach(), alpha=len(positions))
        if training.l1 and self.penalized:
            sums = [
                weight.abs().sum() if times == 1 else weight.abs().sum() * times for weight, times in self.penalized
            ]
            self.scaler.scale(training.l1 * torch.stack(sums).sum()).backward()
        self.scaler.unscale_(self.optimizer)
        if self.wire is None or self.scaler.is_enabled():
            norm = nn.utils.get_total_norm([p.grad for p in self.learned if p.grad is not None])
        else:
            norm = self.wire.note(place.step + 1, place.epoch, self.batch, self.loss_sum)
        self.norm = norm
        if self.scaler.is_enabled():  # a step that overflowed is left out and tells nothing
            self.norm = torch.where(norm.isfinite(), norm, torch.zeros_like(norm))
        elif self.wire is None and not math.isfinite(self.norm.item()):
            raise self.where_its_gradient_broke()
        self.watch.before_step()
        if training.clip_value:
            nn.utils.clip_grad_value_(self.learned, training.clip_value)
            norm = nn.utils.get_total_norm([p.grad for p in self.learned if p.grad is not None])
        if training.clip_norm:
            nn.utils.clip_grads_with_norm_(self.learned, training.clip_norm, norm)
        self.room.moving = True
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.room.moving = False
        self.watch.after_step()
        place.count += count
        place.update += 1
        place.step += 1
        if self.average is not None:
            self.average.told(self.model, place.epoch, place.update == len(self.updates))

    def _learn_together(self, batches: Sequence[np.ndarray], count: int, chance: torch.Generator) -> None:
        """The way forward and back of a step that several processes share: the gradients of `count` scans, summed."""
        told = torch.zeros((), dtype=torch.float64, device=self.device)
        self.room.moving = True  # one process cannot take a step back by itself: where memory runs out, the run ends
        with self.team.together():
            for positions in batches:
                mine, share = self.team.part(positions)
                images, target = self.train.batch(mine, chance)
                images, target = self.task.vary(self.experiment, images, target, self.augment, chance)
                images = self.normalized(images)
                with self.precision():
                    loss = self.task.step(self.model, images, target, self.objective).loss
                self.scaler.scale(loss * (share * len(positions) / count)).backward()
                self.watch.passed()
                told.add_(loss.detach(), alpha=share * len(positions))
            total = self.team.summed(self.learned, told)
        self.loss_sum.add_(total)
        if self.wire is None and not math.isfinite(total.item()):
            raise self._broke("loss", "the loss was")

    def order(self, epoch: int) -> np.ndarray:
        """The order of the training scans in an epoch, as int64 positions: always the same for it."""
        training = self.experiment.training
        if training.balance == "sampler":
            return balanced(training.seed, epoch, self.kinds)
        return permutation(training.seed, epoch, len(self.train.indices))

    @property
    def judged(self) -> nn.Module:
        """The network that is judged, kept as the best and shown: the average of the weights where there is one."""
        if self.average is not None and self.average.ready:
            return self.average.copy.module
        return self.model

    def normalized(self, images: Tensor) -> Tensor:
        """A batch of ours, changed in place: shifted, scaled and in the memory order that the experiment says."""
        images = images.sub_(self.mean).div_(self.std)
        if self.memory_format == torch.channels_last and images.shape[1] == 1:
            # With one channel both orders are the same bytes; the strides tell torch which one is meant.
            _, _, height, width = images.shape
            return images.contiguous().as_strided(images.shape, (height * width, 1, width, 1))
        return images.contiguous(memory_format=self.memory_format)

    def precision(self) -> AbstractContextManager[Any]:
        """The half precision that was chosen, else nothing."""
        return torch.autocast(self.device.type, self.half) if self.half is not None else nullcontext()

    def choose_way(self) -> Iterator[Event]:
        """Chooses how steps are computed, where that is asked for, and says so; the run is left as it was."""
        if self.train.resident is not None:
            held = self.train.resident.numel() * self.train.resident.element_size() / 1e6
            yield Noted(f"The training scans lie in the memory of the GPU ({held:,.0f} MB).")
        size, training = self.experiment.training.batch_size, self.experiment.training
        if self.way.chosen:
            return
        if size > len(self.train.indices):
            self.way.chosen = ways.PLAIN
            yield Noted("Not compiled: that is done for whole batches, and there are fewer scans than one batch takes.")
            return
        kept = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        with undisturbed(self.device):
            words = self.way.choose(self._tried, training.epochs * len(self.updates) * training.accumulate)
        for name, buffer in self.model.named_buffers():
            buffer.copy_(kept[name])
        self.optimizer.zero_grad(set_to_none=True)
        yield Noted(words)

    def _tried(self, net: Any) -> None:
        """A pass forward and back over a whole batch, of which nothing stays but random numbers and statistics."""
        self.model.train()
        chance = torch.Generator()
        chance.manual_seed(0)
        images, target = self.train.batch(np.arange(self.experiment.training.batch_size), chance)
        images, target = self.task.vary(self.experiment, images, target, self.augment, chance)
        images = self.normalized(images)
        with self.precision():
            loss = self.task.step(net, images, target, self.objective).loss
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def look(self) -> dict[str, float]:
        """Mean loss since the last look, learning rate and length of the last gradient. This waits for the device.

        Raises NotFinite: on a GPU, where looking at each step would cost speed, running away is noticed here.
        """
        place, total, norm = self.place, self.loss_sum.item(), self.norm.item()
        if not (math.isfinite(total) and math.isfinite(norm)):
            raise self._broke_before()
        epoch, seen_total, seen_count = self.seen if self.seen[0] == place.epoch else (place.epoch, 0.0, 0)
        loss = (total - seen_total) / max(1, place.count - seen_count)
        self.seen = (epoch, total, place.count)
        told = {"step/loss": loss, "step/lr": self.rate, "step/gradient": norm}
        return told | self.pace(time.monotonic()) | self.memory()

    def pace(self, now: float) -> dict[str, float]:
        """Scans a second since the last call; {} at the first."""
        then, count = self.timed
        done = (place := self.place).count + (place.epoch - 1) * len(self.train.indices)
        self.timed = (now, done)
        return {"step/scans_per_s": (done - count) / (now - then)} if count and now > then else {}

    def memory(self) -> dict[str, float]:
        """Megabytes that this process holds, and on a GPU those that its tensors take there; neither waits for it."""
        told = {"step/memory_mb": self.process.memory_info().rss / 1e6}
        if self.device.type == "cuda":
            told["step/gpu_memory_mb"] = torch.cuda.memory_allocated(self.device) / 1e6
        return told

    def pictured(self) -> Iterator[Event]:
        """What the epoch that was just judged adds to the film."""
        if not self.team.leads:
            return
        files = self.film.frame(self.place.epoch, self.place.step, self.model)
        if files:
            yield Pictured(self.place.step, self.place.epoch, files)
        if self.film.refused:
            yield Warned(self.film.refused)

    # ---- judging ----

    def judge(self) -> dict[str, float]:
        """Metrics of the epoch at hand: train/loss, and on the val split (if any) val/loss and the task's scores.

        train/loss was taken while it learned: of scans varied, with dropout on, by weights that changed meanwhile. What
        is like val/loss and can be set beside it is train_eval/loss: of some training scans as they are, afterwards.
        """
        if self.wire is not None and self.wire.tripped() is not None:  # since the last look
            raise self._broke_before()
        with torch.inference_mode(), undisturbed(self.device):
            return self.team.agreed(self._judged() if self.team.leads else None)

    def _judged(self) -> dict[str, float]:
        train_loss = float(self.loss_sum) / max(1, self.place.count)
        if not math.isfinite(train_loss):
            raise self._broke("loss", "the loss was")
        metrics = {"train/loss": train_loss}
        if self.average is not None and self.average.ready:
            self.average.measure(self._plain_batches())
        if self.val is None:
            return metrics
        model = self.judged.eval()
        plain, _ = self._asked(model, self.train, self.sample)
        if math.isfinite(plain):
            metrics["train_eval/loss"] = plain
        everything = np.arange(len(self.val.indices))
        metrics["val/loss"], answers = self._asked(model, self.val, everything, answered=True)
        if not math.isfinite(metrics["val/loss"]):
            raise self._broke("loss", "the validation loss was", "batch normalization may have met a wild batch")
        scores = self.task.scores(self.experiment, answers, self.val.targets)
        self.settled = self.task.settled(self.experiment, answers, self.val.targets)
        self.film.take(self.place.epoch, answers, self.settled)
        if 1 < len(self.dataset.classes) <= _MOST_CLASSES:
            for name, values in self.task.by_class(self.experiment, answers, self.val.targets).items():
                scores |= {f"{name}{OF}{self.dataset.classes[k]}": value for k, value in values.items()}
        return metrics | {f"val/{name}": float(value) for name, value in scores.items()}

    def _asked(
        self, model: nn.Module, scans: Scans, positions: np.ndarray, answered: bool = False
    ) -> tuple[float, list[Any]]:
        """Mean loss over `positions` of a split as they are, and where `answered` what the network says of each."""
        answers: list[Any] = []
        size = 2 * self.room.at_once  # no gradients: twice as many fit
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        shown = views.VIEWS[self.experiment.training.test_time if answered else "off"]
        for start in range(0, len(positions), size):
            part = positions[start : start + size]
            images, target = self.task.pose(self.experiment, *scans.batch(part))
            told: list[list[Any]] = []
            for view in shown:
                with self.precision():
                    seen = images if len(shown) == 1 else views.seen(images.clone(), view)
                    output = model(self.normalized(seen)).float()
                if not told:  # the loss is that of the scan as it is
                    total.add_(self.objective(output, target), alpha=len(part))
                if answered:
                    told.append(self.task.answers(self.experiment, model, output, self.dataset.multi_label))
            if answered:
                answers += told[0] if len(told) == 1 else self.task.together(self.experiment, shown, told)
        return float(total) / len(positions), answers

    def _plain_batches(self) -> Iterator[Tensor]:
        """All training scans in batches as the network takes them, unvaried and always in the same order."""
        for update in self.updates:
            for start, end in update:
                images, _ = self.task.pose(self.experiment, *self.train.batch(np.arange(start, end)))
                yield self.normalized(images)

    def rank(self, metrics: dict[str, float]) -> tuple[bool, list[str]]:
        """Whether this epoch is the best so far, by the monitored score; and what to say about the choice of score."""
        place, warnings = self.place, []
        split = "train" if self.val is None else "val"
        if self.val is None and place.monitor != "loss":
            warnings.append("There are no validation scans: the best epoch is chosen by the training loss.")
            place.monitor = "loss"
        elif f"{split}/{place.monitor}" not in metrics and place.best is None:
            warnings.append(
                f"The score {place.monitor!r} cannot be computed on these validation scans; the best epoch is chosen "
                "by the validation loss instead."
            )
            place.monitor = "loss"
        value = metrics.get(f"{split}/{place.monitor}")
        rising = place.monitor != "loss" and self.task.metrics.get(place.monitor, True)
        # On a small validation set scores soon tie at their top; among equals the lower loss is the better calibrated.
        loss = metrics[f"{split}/loss"]
        better = value is not None and (
            place.best is None
            or (value > place.best if rising else value < place.best)
            or (value == place.best and loss < place.best_loss)
        )
        if better:
            place.best, place.best_loss, place.best_epoch = value, loss, place.epoch
        # Patience asks for a better score: an equal one with a lower loss is kept, but it may go on like that for ever.
        gain, bar = self.experiment.training.min_delta, place.bar
        if value is not None and (bar is None or (value > bar + gain if rising else value < bar - gain)):
            place.bar, place.stale = value, 0
        else:
            place.stale += 1
        return better, warnings

    @property
    def is_stale(self) -> bool:
        """Whether early stopping is on and its patience at an end."""
        patience = self.experiment.training.patience
        return patience > 0 and self.place.stale >= patience

    def turn_page(self, metrics: dict[str, float]) -> None:
        """Close this epoch and open the next."""
        self.schedule.epoch_ended(metrics.get("val/loss", metrics["train/loss"]))
        place = self.place
        place.epoch, place.update, place.count, place.seconds = place.epoch + 1, 0, 0, 0.0
        self.loss_sum.zero_()

    def summary(self) -> str:
        """How it went, in one or two sentences."""
        place, training = self.place, self.experiment.training
        best = (
            f" Best {'training' if self.val is None else 'validation'} {spoken(place.monitor)}: "
            f"{place.best:.4g}, in epoch {place.best_epoch}."
            if place.best is not None
            else ""
        )
        if place.epoch <= training.epochs:
            return f"Stopped early after epoch {place.epoch - 1}: no better score for {place.stale} epochs.{best}"
        return f"All {training.epochs} epochs are done.{best}"

    # ---- keeping ----

    def save(self) -> str:
        """Write everything needed to go on; the file's name. Raises NotFinite rather than keep lost weights."""
        if not self.team.leads:
            return ""
        self._require_finite()
        place = asdict(self.place) | {"loss_sum": float(self.loss_sum)}
        state = {
            "experiment": self.experiment.digest,
            "scans": self.scans_digest,
            "place": place,
            "model": self.model.state_dict(),
            **({"average": self.average.state()} if self.average is not None else {}),
            "optimizer": self.optimizer.state_dict(),
            "remembered": optim.named(self.optimizer, self.model),
            "schedule": self.schedule.state(),
            "random": _random_state(self.device),
            "at_once": self.room.at_once,
            "way": self.way.chosen,
            "scaler": self.scaler.state_dict(),
            "facts": self.facts(),
        }
        return checkpoint.save(self.folder, LAST, state).name

    def pour(self, found: checkpoint.Loaded) -> None:
        """Copies the weights of a saved state into the network.

        Raises:
            CheckpointError: they are of another network, or of fewer classes than the dataset has by now.
        """
        try:
            checkpoint.pour(found.state["model"], self.model, f"The checkpoint {found.file.name}")
        except CheckpointError:
            now = [*self.dataset.classes]
            taught = found.state.get("facts", {}).get("classes", now)
            if taught == now:
                raise
            raise CheckpointError(
                f"The run was taught the classes {', '.join(taught)}; the data set now has {', '.join(now)}. What it "
                "has learned is kept; train anew to tell all of them apart."
            ) from None

    def facts(self) -> dict[str, Any]:
        """What is needed beside the weights to use them on a scan, as JSON data."""
        mean, std = normalization(self.experiment, self.prepared)
        return {
            "classes": list(self.dataset.classes),
            "multi_label": bool(self.dataset.multi_label),
            "unit": int(self.prepared.unit),
            "mean": mean,
            "std": std,
            "fingerprint": self.dataset.fingerprint.to_json(),
            "settled": self.settled,
        }

    def save_best(self) -> str:
        """Write the weights with what is needed to use them on a scan; the file's name."""
        if not self.team.leads:
            return ""
        self._require_finite()
        facts = {**self.facts(), "epoch": self.place.epoch, "value": self.place.best}
        words = {name: json.dumps(value) for name, value in facts.items()}
        words |= {"metric": self.place.monitor, "experiment": self.experiment.digest}
        return checkpoint.save_weights(self.folder / BEST, self.judged.state_dict(), words).name

    def keep_best(self, file: str) -> None:
        """Keeps the state in `file`, saved at the end of the best epoch so far: a branch may begin there."""
        if self.team.leads:
            checkpoint.keep(self.folder / file, PEAK)

    def forget(self) -> None:
        """Takes away what was saved before: the run begins anew."""
        for name in (LAST, PEAK):
            checkpoint.discard(self.folder, name)
        (self.folder / BEST).unlink(missing_ok=True)

    def resume(self, attempt: int = 1) -> Iterator[Event]:
        """Go on from the newest good checkpoint, if there is one; else a later attempt begins anew, a branch from the
        state of its parent."""

        def own(state: dict[str, Any]) -> None:
            if state.get("experiment") != self.experiment.digest:
                raise CheckpointError("The checkpoint in this run's folder belongs to another experiment.")

        found = checkpoint.load_latest(self.folder, LAST, own)
        if found is None:
            if attempt > 1:
                yield Resumed(0, 0)
            yield from self.branch()
            return
        if found.state["scans"] != self.scans_digest:
            raise CheckpointError(
                "The scans of this dataset have changed since the run began, so it cannot go on as the same run. What "
                "it has learned is kept; open it as a new experiment to learn from the scans that are there now."
            )
        for warning in found.warnings:
            yield Warned(warning)
        self.pour(found)
        self.optimizer.load_state_dict(found.state["optimizer"])
        if self.average is not None and "average" in found.state:
            self.average.restore(found.state["average"])
        self.schedule.restore(found.state["schedule"])
        for name, value in found.state["place"].items():
            setattr(self.place, name, value)
        self.loss_sum.fill_(self.place.loss_sum)
        self.room.at_once = found.state.get("at_once", self.room.batch)
        if said := self.way.restore(found.state.get("way", ways.PLAIN)):
            yield Noted(said)
        if self.scaler.is_enabled() and found.state.get("scaler"):
            self.scaler.load_state_dict(found.state["scaler"])
        self.settled = found.state.get("facts", {}).get("settled", {})
        _restore_random_state(found.state["random"], self.device)
        yield Resumed(self.place.step, self.place.epoch)

    def branch(self) -> Iterator[Event]:
        """Begin where the parent of this run was, if it has one."""
        came = Branch.of(self.folder)
        if came is None:
            return
        found = checkpoint.load_latest(self.folder, PARENT)
        if found is None:
            raise CheckpointError("The state that this branch begins with is gone: make the branch again.")
        carried = carrying.carry(found.state, self, came.changes)
        changes = {path: list(values) for path, values in came.changes.items()}
        yield Branched(came.parent, self.place.step, self.place.epoch, changes, carried)

    def restore_dice(self, state: dict[str, Any]) -> None:
        """Every source of chance is as it was in `state`."""
        _restore_random_state(state, self.device)

    # ---- running away ----

    def _require_finite(self) -> None:
        for name, tensor in self.model.state_dict().items():
            if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
                raise self._broke("weights", f"{name} of the network was", "it was not saved", owner(name))

    def where_it_broke(self, images: Tensor) -> NotFinite:
        """The error that names epoch, step, batch and the first layer whose output is not finite."""
        name = self._first_wild_layer(images)
        if name:
            return self._broke("output", f"the output of layer {name} was", layer=name)
        return self._broke("loss", "the loss was", "though every layer's output was fine")

    def where_its_gradient_broke(self) -> NotFinite:
        """The error that names epoch, step, batch and the layer whose gradient stopped being finite first."""
        wild = [n for n, p in self.model.named_parameters() if p.grad is not None and not bool(p.grad.isfinite().all())]
        # Gradients run backwards: the one nearest to the output broke first.
        if not wild:  # each number is finite, and only their length is not: the longest is to blame
            grads = {n: p.grad for n, p in self.model.named_parameters() if p.grad is not None}
            wild = sorted(grads, key=lambda n: float(torch.linalg.vector_norm(grads[n], dtype=torch.float64)))
        name = owner(wild[-1]) if wild else ""
        return self._broke("gradient", f"the gradient of {name or 'the network'} was", layer=name)

    @torch.no_grad()
    def _first_wild_layer(self, images: Tensor) -> str:
        found: list[str] = []

        def look(name: str) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and not bool(output.isfinite().all()):
                    found.append(name)

            return hook

        leaves = [(name, module) for name, module in self.model.named_modules() if not list(module.children())]
        hooks = [module.register_forward_hook(look(name)) for name, module in leaves]
        try:
            self.model(images)
        finally:
            for handle in hooks:
                handle.remove()
        return owner(found[0]) if found else ""

    def _broke_before(self) -> NotFinite:
        """The error for what a GPU did some steps ago, with the step, the layer and the batch of then."""
        tripped = self.wire.tripped() if self.wire is not None else None
        remark = "noticed a moment after it happened"
        if tripped is None:
            return self._broke("loss", "the loss or its gradient was", remark)
        self.batch, self.place.step, self.place.epoch = tripped.batch, tripped.step - 1, tripped.epoch
        if not tripped.parameter:
            return self._seen_again(tripped) or self._broke("loss", "the loss was", remark)
        layer = owner(tripped.parameter)
        return self._broke("gradient", f"the gradient of {layer} was", remark, layer)

    def _seen_again(self, tripped: Tripped) -> NotFinite | None:
        """The error of the step that tripped, with the layer: the steps since the last saved state are done once more,
        and each is looked at, as on a processor. None where that takes too long or too much memory, or nothing breaks
        this time, since a GPU may sum in another order.
        """
        if self.team.size > 1:
            return None
        began = time.monotonic()
        try:
            again = Learner(self.experiment, self.task, self.dataset, self.prepared, self.folder, self.device)
            again.wire = None
            deque(again.resume(), maxlen=0)
            again.way.chosen = ways.PLAIN  # compiling would take longer than the steps
            order = again.order(again.place.epoch)
            for update in again.updates[again.place.update :]:
                if again.place.step >= tripped.step or time.monotonic() - began > _SEEN_AGAIN_S:
                    break
                again.update([order[start:end] for start, end in update])
        except NotFinite as error:
            return error if error.broke.step == tripped.step else None
        except (torch.OutOfMemoryError, CheckpointError):
            pass
        return None

    def _broke(self, what: str, words: str, remark: str = "", layer: str = "") -> NotFinite:
        """The error for what is no finite number any more: epoch, step, and the scans of the batch at hand."""
        place = self.place
        kept = (
            f"The best weights so far, from epoch {place.best_epoch}, are kept."
            if place.best is not None
            else "Nothing was overwritten."
        )
        cases = list(dict.fromkeys(self.train.targets.cases[self.batch].tolist()))
        named = ", ".join(f"c{case:06d}" for case in cases[:_NAMED])
        more = f" and {len(cases) - _NAMED} more" if len(cases) > _NAMED else ""
        message = (
            f"Training ran away in epoch {place.epoch}, step {place.step + 1}: {words} not a finite number"
            f"{f' ({remark})' if remark else ''}. Lower the learning rate or switch gradient clipping on, and start "
            f"again. {kept}{f' The batch held the scans {named}{more}.' if cases else ''}"
        )
        return NotFinite(message, Broke(place.step + 1, place.epoch, layer, what, cases))


def _sample(count: int, seed: int) -> np.ndarray:
    """Positions of the training scans that are judged like validation scans at the end of each epoch: a twentieth, so
    that it costs next to nothing, but enough for a steady figure."""
    size = min(count, max(_LEAST_SAMPLE, count // 20))
    return np.sort(np.random.default_rng((seed, _SAMPLE)).choice(count, size, replace=False))


def _half(chosen: str, device: torch.device) -> torch.dtype | None:
    """The half precision that `training.mixed_precision` means on this device; None: float32."""
    if chosen in ways.HALVES:
        return torch.bfloat16 if chosen == "bfloat16" else torch.float16
    there = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if chosen == "auto" and there else None


def _seed_everything(seed: int) -> None:
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def _mixed_seed(*numbers: int) -> int:
    """One seed out of several numbers, so that neighbours have nothing in common."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leaves the dice of a training as they were, whatever is thrown inside.

    A library may throw when it is imported (rich, which sklearn brings along, takes 24 bits from Python's dice): the
    first epoch of a process would then leave them otherwise than any later one.
    """
    before = _random_state(device)
    try:
        yield
    finally:
        _restore_random_state(before, device)


def _random_state(device: torch.device) -> dict[str, Any]:
    kind, keys, position, has_gauss, cached = np.random.get_state()
    state: dict[str, Any] = {
        "torch": torch.get_rng_state(),
        "numpy": [str(kind), [int(key) for key in keys], int(position), int(has_gauss), float(cached)],
        "python": random.getstate(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    torch.set_rng_state(state["torch"])
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, np.uint32), position, has_gauss, cached))
    random.setstate(state["python"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
