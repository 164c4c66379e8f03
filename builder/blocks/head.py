"""Last layers, one for each kind of answer. (Class scores are a plain linear layer.)"""

import torch
from torch import nn


class MaskScores(nn.Module):
    """One score a class and pixel: a 1x1 convolution, brought to the scan's size (bilinear).

    Args:
        in_channels: of the maps. classes: number of them. scan_size: (height, width). full_size: scale up to it.
    Input shape: (B, in_channels, h, w). Output shape: (B, classes, height, width) scores before softmax or sigmoid.
    """

    def __init__(self, in_channels: int, classes: int, scan_size: tuple[int, int], full_size: bool = True):
        super().__init__()
        self.scores = nn.Conv2d(in_channels, classes, 1)
        self.size = tuple(scan_size) if full_size else ()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.scores(x)
        if not self.size or y.shape[2:] == self.size:
            return y
        return nn.functional.interpolate(y, self.size, mode="bilinear", align_corners=False)


class ImageHead(nn.Module):
    """A picture like the scan: a 3x3 convolution, brought to the scan's size times `scale` (bilinear) where it is not.

    Args:
        channels: of the maps and, with `residual`, of the scan. scan_channels, scan_size: of the scan.
        residual: the layers before it learn what to add to the scan (Zhang et al. 2017); the scan is the second input,
            enlarged by cubic convolution (Keys 1981) where `scale` is more than 1.
        scale: how many times finer the picture is than the scan (super-resolution).
    Output shape: (B, scan_channels, scale * height, scale * width), unbounded.
    Raises:
        ValueError: in words, when the scan is missing with `residual`, or is there without it.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        scan_channels: int,
        scan_size: tuple[int, int],
        residual: bool = False,
        scale: int = 1,
    ):
        super().__init__()
        if residual and len(channels) != 2:
            raise ValueError("To learn the difference, the image head needs the scan itself as its second input.")
        if residual and channels[1] != scan_channels:
            raise ValueError(f"The second input must be the scan ({scan_channels} channels), not {channels[1]} maps.")
        if not residual and len(channels) != 1:
            raise ValueError("The image head takes a second input, the scan, only where it learns the difference.")
        self.size, self.scale = (scan_size[0] * scale, scan_size[1] * scale), scale
        self.picture = nn.Conv2d(channels[0], scan_channels, 3, padding=1)
        if residual:  # it begins near the scan as it is, from where the way is short (Zhang et al., ICLR 2019, Fixup)
            with torch.no_grad():
                for values in self.picture.parameters():
                    values.mul_(0.1)

    def forward(self, x: torch.Tensor, scan: torch.Tensor | None = None) -> torch.Tensor:
        y = self.picture(x)
        if y.shape[2:] != self.size:
            y = nn.functional.interpolate(y, self.size, mode="bilinear", align_corners=False)
        if scan is None:
            return y
        if self.scale > 1:
            scan = nn.functional.interpolate(scan, self.size, mode="bicubic", align_corners=False)
        return scan + y


class Finder(nn.Module):
    """What heads that find boxes have in common: how rows of scores are taught and what they come to.

    Subclasses put out rows (B, R, classes + k): the logits of the classes first (sigmoid, no background class).
    `classes` is the number of classes. Every subclass has

        decode(output) -> boxes (B, R, 4), x0 y0 x1 y1 in px of the scan, and scores (B, R, K) in 0..1;
        loss(output, boxes, labels) -> how wrong an output is, a scalar; boxes (n, 4) in px of the scan and labels (n,)
            int64 of each scan.
    """

    classes: int

    @staticmethod
    def focal(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Focal loss (Lin et al. 2017; alpha 0.25, gamma 2) of logits (..., K) for wanted 0 or 1 of that shape."""
        from torchvision.ops import sigmoid_focal_loss

        return sigmoid_focal_loss(logits, wanted, reduction="sum")

    @staticmethod
    def places(size: tuple[int, int], scan_size: tuple[int, int]) -> tuple[torch.Tensor, list[float]]:
        """Centres (h * w, 2), x before y, row by row, and the steps [x, y] of a map of this size, in px of the scan."""
        step = [scan_size[1] / size[1], scan_size[0] / size[0]]  # numbers: a planned head lies on the meta device
        rows, columns = (torch.arange(n) + 0.5 for n in size)
        return torch.cartesian_prod(rows, columns).flip(1) * torch.tensor(step), step

    @staticmethod
    def checked(hidden: int) -> int:
        """`hidden`; raises ValueError, in words, unless the group norm of 32 groups can part it."""
        if hidden % 32:
            near = max(32, round(hidden / 32) * 32)
            raise ValueError(f"The head's group norm needs inner channels in 32s: {near} instead of {hidden}.")
        return hidden

    def one_hot(self, labels: torch.Tensor, match: torch.Tensor) -> torch.Tensor:
        """Wanted scores (R, K) float: 1 for the class of the lesion that a row is matched to, 0 all over below 0."""
        if not len(labels):
            return torch.zeros(len(match), self.classes, device=match.device)
        found = nn.functional.one_hot(labels[match.clamp(min=0)], self.classes)
        return (found * (match >= 0)[:, None]).float()

    @staticmethod
    def joined(matches: list[torch.Tensor], boxes: list[torch.Tensor]) -> torch.Tensor:
        """(B * R,) int64: what the rows of each scan are matched to (R,), one scan after the other, counted over the
        boxes of all. A batch is judged in one go: scan by scan a GPU would mostly wait for the next small command."""
        found, start = [], 0
        for match, there in zip(matches, boxes, strict=True):
            found.append(torch.where(match >= 0, match + start, match))
            start += len(there)
        return torch.cat(found)


class BoxHead(Finder):
    """Boxes without anchors (FCOS, Tian et al. 2019; the towers are torchvision's): every place of every map says
    which class covers it, how far the box reaches from it, and how central it lies.

    Args:
        channels, sizes: of each map, (height, width). classes: number of them. scan_size: (height, width).
        hidden: channels inside, a multiple of 32. num_convs: 3x3 convolutions of each of the two towers.
    Input shape: a (B, C, h, w) for each map. Output shape: (B, T, classes + 5); T places, map after map, row by row.
    Last dimension:
        [0, classes)          logits, one a class (sigmoid, no background class)
        classes + 0, 1, 2, 3  distances from the place to the box's left, top, right, bottom edge, px of the scan, >= 0
        classes + 4           logit of the centreness
    `centers` (T, 2) float holds x and y of each place, px of the scan, from its top left corner.
    """

    centers: torch.Tensor
    steps: torch.Tensor
    reaches: torch.Tensor

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        classes: int,
        scan_size: tuple[int, int],
        hidden: int = 64,
        num_convs: int = 2,
    ):
        super().__init__()
        from torchvision.models.detection.fcos import FCOSHead

        self.classes = classes
        self.entry = nn.ModuleList(nn.Conv2d(c, self.checked(hidden), 1) for c in channels)
        self.towers = FCOSHead(hidden, 1, classes, num_convs)
        steps, centers, reaches = [], [], []
        low = 0.0
        for level, size in enumerate(sizes):
            places, step = self.places(size, scan_size)
            centers.append(places)
            steps.append(torch.tensor([step * 2]).expand(len(places), 4))
            # Each map is for lesions that reach as far as this from its places; the finest and the coarsest take the
            # rest. The limits of the paper: 64 px at a stride of 8, doubled with the stride.
            high = float("inf") if level == len(sizes) - 1 else 8.0 * sum(step) / 2
            reaches.append(torch.tensor([[low, high]]).expand(len(places), 2))
            low = high
        self.register_buffer("centers", torch.cat(centers), persistent=False)
        self.register_buffer("steps", torch.cat(steps), persistent=False)
        self.register_buffer("reaches", torch.cat(reaches), persistent=False)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        found = self.towers([entry(x) for entry, x in zip(self.entry, maps, strict=True)])
        distances = found["bbox_regression"] * self.steps  # torchvision's are in steps of the map
        return torch.cat([found["cls_logits"], distances, found["bbox_ctrness"]], dim=2)

    def decode(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes and scores, as `Finder` says; a score is the geometric mean of class and centreness (torchvision's)."""
        distances = output[..., self.classes : self.classes + 4]
        boxes = torch.cat([self.centers - distances[..., :2], self.centers + distances[..., 2:]], dim=-1)
        return boxes, (output[..., : self.classes].sigmoid() * output[..., -1:].sigmoid()).sqrt()

    def match(self, boxes: torch.Tensor) -> torch.Tensor:
        """(T,) int64: which box each place is to find, -1 none. A place must lie in the box and near its centre (1.5
        steps), and its map be meant for boxes that reach so far; of several the smallest is taken. A box so small that
        no place lies so is found by the place of the finest map that is nearest to its centre."""
        none = torch.full((len(self.centers),), -1, dtype=torch.int64, device=boxes.device)
        if not len(boxes):
            return none
        x, y = self.centers[:, None].unbind(2)
        x0, y0, x1, y1 = boxes[None].unbind(2)
        reach = torch.stack([x - x0, y - y0, x1 - x, y1 - y])
        far = reach.amax(0)
        near = ((x - (x0 + x1) / 2).abs() < 1.5 * self.steps[:, :1]) & (
            (y - (y0 + y1) / 2).abs() < 1.5 * self.steps[:, 1:2]
        )
        fits = (reach.amin(0) > 0) & near & (far > self.reaches[:, :1]) & (far <= self.reaches[:, 1:])
        area = ((x1 - x0) * (y1 - y0)).expand_as(far).masked_fill(~fits, float("inf"))
        least, which = area.min(1)
        match = torch.where(least.isfinite(), which, none)
        # Boxes without a place; of several whose nearest place is the same the last takes it.
        away = ((x - (x0 + x1) / 2) ** 2 + (y - (y0 + y1) / 2) ** 2).masked_fill(self.reaches[:, :1] != 0, float("inf"))
        lost = torch.where(fits.any(0), -1, torch.arange(len(boxes), device=boxes.device))
        taken = none.scatter_reduce(0, away.argmin(0), lost, "amax")
        return torch.where(taken >= 0, taken, match)

    def loss(self, output: torch.Tensor, boxes: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        """As `Finder` says: focal loss of the classes, generalized IoU of the boxes (Rezatofighi 2019), cross-entropy
        of the centreness, each a mean over the places that have a box."""
        from torchvision.ops import generalized_box_iou_loss

        match, rows = self.joined([self.match(b) for b in boxes], boxes), output.flatten(0, 1)
        found = (match >= 0).nonzero()[:, 0]
        total = output.sum() * 0.0  # a batch without lesions still has a gradient
        total = total + self.focal(rows[:, : self.classes], self.one_hot(torch.cat(labels), match))
        if not len(found):
            return total
        center, told, wanted = self.centers[found % output.shape[1]], rows[found], torch.cat(boxes)[match[found]]
        distance = told[:, self.classes : self.classes + 4]
        answer = torch.cat([center - distance[:, :2], center + distance[:, 2:]], dim=1)
        total = total + generalized_box_iou_loss(answer, wanted, reduction="sum")
        left, top = (center - wanted[:, :2]).unbind(1)
        right, bottom = (wanted[:, 2:] - center).unbind(1)
        across = torch.minimum(left, right) / torch.maximum(left, right)
        along = torch.minimum(top, bottom) / torch.maximum(top, bottom)
        inside = torch.stack([left, top, right, bottom]).amin(0) > 0
        central = torch.where(inside, across * along, 1.0).clamp(min=0).sqrt()  # the nearest place is the centre
        total = total + nn.functional.binary_cross_entropy_with_logits(told[:, -1], central, reduction="sum")
        return total / len(found)


class AnchorHead(Finder):
    """Boxes from anchors (RetinaNet, Lin et al. 2017; the towers are torchvision's): nine boxes of three sizes and
    three shapes at every place of every map, each told its class and how to move and stretch it.

    Args:
        channels, sizes: of each map, (height, width). classes: number of them. scan_size: (height, width).
        hidden: channels inside, a multiple of 32. num_convs: 3x3 convolutions of each of the two towers.
        scale: side of the smallest anchor in steps of its map (4 in the paper).
    Input shape: a (B, C, h, w) for each map. Output shape: (B, R, classes + 4); R = 9 a place, map after map.
    Last dimension:
        [0, classes)          logits, one a class (sigmoid, no background class)
        classes + 0, 1        shift of the anchor's centre in its widths and heights
        classes + 2, 3        logarithm of the stretch of its width and height
    `anchors` (R, 4) float holds their centres x, y and sizes w, h, px of the scan.
    """

    anchors: torch.Tensor

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        classes: int,
        scan_size: tuple[int, int],
        hidden: int = 64,
        num_convs: int = 2,
        scale: float = 4.0,
    ):
        super().__init__()
        from functools import partial

        from torchvision.models.detection.retinanet import RetinaNetHead

        self.classes = classes
        self.entry = nn.ModuleList(nn.Conv2d(c, self.checked(hidden), 1) for c in channels)
        self.towers = RetinaNetHead(hidden, 9, classes, norm_layer=partial(nn.GroupNorm, 32))
        # torchvision's towers have four convolutions: those that are not wanted are left out.
        self.towers.classification_head.conv = self.towers.classification_head.conv[:num_convs]
        self.towers.regression_head.conv = self.towers.regression_head.conv[:num_convs]
        shapes = torch.tensor([[w, 1 / w] for w in (2**0.5, 1.0, 0.5**0.5)])  # as wide as high, and twice either way
        base = torch.cat([shapes * scale * 2 ** (k / 3) for k in range(3)])
        anchors = []
        for size in sizes:
            places, step = self.places(size, scan_size)
            sides = (base * torch.tensor(step))[None].expand(len(places), 9, 2)
            anchors.append(torch.cat([places[:, None].expand(-1, 9, 2), sides], dim=2).reshape(-1, 4))
        self.register_buffer("anchors", torch.cat(anchors), persistent=False)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        found = self.towers([entry(x) for entry, x in zip(self.entry, maps, strict=True)])
        return torch.cat([found["cls_logits"], found["bbox_regression"]], dim=2)

    def decode(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes and scores, as `Finder` says."""
        shift, stretch = output[..., self.classes : self.classes + 2], output[..., self.classes + 2 : self.classes + 4]
        center = self.anchors[:, :2] + shift * self.anchors[:, 2:]
        half = self.anchors[:, 2:] * stretch.clamp(max=4.135).exp() / 2  # 1000 / 16, as torchvision has it
        return torch.cat([center - half, center + half], dim=-1), output[..., : self.classes].sigmoid()

    def match(self, boxes: torch.Tensor) -> torch.Tensor:
        """(R,) int64: which box each anchor is to find, -1 none, -2 undecided (IoU of 0.4 to 0.5: not counted). The
        best anchors of a box find it, however little they overlap."""
        from torchvision.ops import box_iou

        if not len(boxes):
            return torch.full((len(self.anchors),), -1, dtype=torch.int64, device=boxes.device)
        half = self.anchors[:, 2:] / 2
        overlap = box_iou(torch.cat([self.anchors[:, :2] - half, self.anchors[:, :2] + half], 1), boxes)
        best, which = overlap.max(1)
        match = torch.where(best >= 0.5, which, torch.where(best < 0.4, -1, -2))
        top = overlap.max(0).values
        rows, columns = ((overlap >= top - 1e-6) & (top > 0)).nonzero().unbind(1)
        match[rows] = columns
        return match

    def loss(self, output: torch.Tensor, boxes: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        """As `Finder` says: focal loss of the classes, L1 of shifts and stretches over the anchors with a box."""
        match, rows = self.joined([self.match(b) for b in boxes], boxes), output.flatten(0, 1)
        found, counted = (match >= 0).nonzero()[:, 0], match > -2
        wanted = self.one_hot(torch.cat(labels), match)
        total = output.sum() * 0.0
        total = total + self.focal(rows[counted, : self.classes], wanted[counted])
        if not len(found):
            return total
        anchor, wanted = self.anchors[found % output.shape[1]], torch.cat(boxes)[match[found]]
        shift = ((wanted[:, :2] + wanted[:, 2:]) / 2 - anchor[:, :2]) / anchor[:, 2:]
        stretch = ((wanted[:, 2:] - wanted[:, :2]) / anchor[:, 2:]).log()
        answer = rows[found, self.classes : self.classes + 4]
        total = total + nn.functional.l1_loss(answer, torch.cat([shift, stretch], 1), reduction="sum")
        return total / len(found)


class TypeAndOutline(nn.Module):
    """What kind of tumour a scan shows and where it ends, side by side in one row of numbers.

    Args:
        channels: of each input, or the features of a vector. sizes: (height, width) of each, of volumes (depth, height,
            width), of a vector ().
        classes: types; with fewer than two there is nothing to tell apart, and the outline stands alone.
        scan_size: of the scan, ending in the same sizes.
        pooling: how maps become the vector that the type is told from: "mean", "max", or "both" side by side.
        dropout: share of that vector dropped in training.
    Input shape: maps (B, C, h, w) or (B, C, d, h, w) for the outline; for the type maps of any size or a vector (B, F),
        where there is no second input the same maps.
    Output shape: (B, K + height * width), of volumes (B, K + depth * height * width); K is `classes`, or 0 where there
        are fewer than two.
    Last dimension:
        [0, K)       logits of the types
        [K, ...)     logits of the outline at the scan's size, row by row, slice by slice: in the tumour where positive
    Raises:
        ValueError: in words, for a vector where the outline's maps should be.
    """

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, ...], ...],
        classes: int,
        scan_size: tuple[int, ...],
        pooling: str = "both",
        dropout: float = 0.2,
    ):
        super().__init__()
        if len(sizes[0]) < 2:
            raise ValueError("The outline needs maps; wire them first, and the vector for the type second.")
        self.size = tuple(scan_size)[-len(sizes[0]) :]
        self.outline = (nn.Conv2d if len(self.size) == 2 else nn.Conv3d)(channels[0], 1, 1)
        self.num_types = classes if classes > 1 else 0
        self.pooling = pooling if len(sizes[-1]) > 1 else ""
        self.dropout = nn.Dropout(dropout)
        features = channels[-1] * (2 if self.pooling == "both" else 1)
        self.types = nn.Linear(features, classes) if self.num_types else None

    def forward(self, maps: torch.Tensor, evidence: torch.Tensor | None = None) -> torch.Tensor:
        y = self.outline(maps)
        if y.shape[2:] != self.size:
            mode = "bilinear" if len(self.size) == 2 else "trilinear"
            y = nn.functional.interpolate(y, self.size, mode=mode, align_corners=False)
        outline = y.flatten(1)
        if self.types is None:
            return outline
        x = maps if evidence is None else evidence
        places = tuple(range(2, x.dim()))
        if self.pooling == "mean":
            x = x.mean(places)
        elif self.pooling == "max":
            x = x.amax(places)
        elif self.pooling == "both":
            x = torch.cat([x.mean(places), x.amax(places)], 1)
        return torch.cat([self.types(self.dropout(x)), outline], 1)


class TwoStageHead(Finder):
    """Boxes in two steps (after Faster R-CNN, Ren et al. 2015): a first stage proposes where anything lies, a second
    looks at each proposal on the finest map and says what it is and how the box must move.

    The first stage is `BoxHead` with one class in place of anchors, and proposals are its peaks (places surer than
    their eight neighbours, Zhou et al. 2019), so that their number is fixed and the head is one graph of operators.
    Proposals are pooled as RoI-align does (He et al. 2017; 5 x 5 cells, four samples each).

    Args:
        channels, sizes: of each map, (height, width), the finest first. classes: number of them.
        scan_size: (height, width). hidden: channels inside, a multiple of 32. num_convs: of the first stage's towers.
        proposals: how many go to the second stage, at most one a place.
    Input shape: a (B, C, h, w) for each map. Output shape: (B, T + P, classes + 9): T rows of the first stage, one a
    place, then P rows of the second, the surest proposal first.
    Last dimension of a row of the first stage: those of `BoxHead` with one class, then zeros. Of the second:
        [0, classes]              logits of the classes, and last that of "nothing" (softmax)
        classes + 1, 2            shift of the proposal's centre in its widths and heights
        classes + 3, 4            logarithm of the stretch of its width and height
        classes + 5, 6, 7, 8      the proposal, x0 y0 x1 y1 in px of the scan
    """

    CELLS = 5
    PARTS = (BoxHead,)  # an export writes their source, too

    def __init__(
        self,
        channels: tuple[int, ...],
        sizes: tuple[tuple[int, int], ...],
        classes: int,
        scan_size: tuple[int, int],
        hidden: int = 64,
        num_convs: int = 1,
        proposals: int = 64,
    ):
        super().__init__()
        self.classes, self.scan_size, self.sizes = classes, tuple(scan_size), tuple(sizes)
        self.first = BoxHead(channels, sizes, 1, scan_size, hidden, num_convs)
        self.num_places = len(self.first.centers)
        self.proposals = min(proposals, self.num_places)
        self.entry = nn.Conv2d(channels[0], hidden, 1)
        self.look = nn.Sequential(nn.Linear(hidden * self.CELLS**2, 2 * hidden), nn.ReLU())
        self.kinds = nn.Linear(2 * hidden, classes + 1)
        self.moves = nn.Linear(2 * hidden, 4)
        nn.init.normal_(self.moves.weight, std=0.001)
        nn.init.zeros_(self.moves.bias)

    def forward(self, *maps: torch.Tensor) -> torch.Tensor:
        rows = self.first(*maps)
        proposed = self.proposed(rows.detach())
        seen = self.look(self.pooled(self.entry(maps[0]), proposed))
        second = torch.cat([self.kinds(seen), self.moves(seen), proposed], dim=2)
        return torch.cat([nn.functional.pad(rows, (0, self.classes + 3)), second], dim=1)

    def proposed(self, rows: torch.Tensor) -> torch.Tensor:
        """(B, P, 4): the boxes at the surest peaks of the first stage, within the scan, at least a pixel wide."""
        boxes, scores = self.first.decode(rows)
        peaks = []
        for part, (height, width) in zip(scores.split([h * w for h, w in self.sizes], 1), self.sizes, strict=True):
            plane = part.transpose(1, 2).unflatten(2, (height, width))
            top = nn.functional.max_pool2d(plane, 3, 1, 1)
            # What is no peak comes behind all peaks, in its own order: no two are equal by making.
            peaks.append(torch.where(plane >= top, plane + 1, plane).flatten(1))
        at = torch.cat(peaks, 1).topk(self.proposals).indices
        chosen = boxes.gather(1, at[:, :, None].expand(-1, -1, 4))
        height, width = self.scan_size
        x0, y0 = chosen[..., 0].clamp(0, width - 1), chosen[..., 1].clamp(0, height - 1)
        x1, y1 = chosen[..., 2].clamp(max=width), chosen[..., 3].clamp(max=height)
        return torch.stack([x0, y0, torch.maximum(x1, x0 + 1), torch.maximum(y1, y0 + 1)], 2)

    def pooled(self, maps: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """What `maps` (B, C, h, w) show in boxes (B, P, 4): (B, P, C * cells * cells)."""
        count = 2 * self.CELLS
        height, width = self.scan_size
        across = (torch.arange(count, device=maps.device) + 0.5) / count
        x = boxes[..., 0:1] + (boxes[..., 2:3] - boxes[..., 0:1]) * across
        y = boxes[..., 1:2] + (boxes[..., 3:4] - boxes[..., 1:2]) * across
        # grid_sample's own measure: the map spans -1 to 1, edge to edge.
        x, y = x * 2 / width - 1, y * 2 / height - 1
        shape = (-1, self.proposals, count, count)
        grid = torch.stack([x[:, :, None, :].expand(shape), y[:, :, :, None].expand(shape)], -1).flatten(1, 2)
        samples = nn.functional.grid_sample(maps, grid.to(maps.dtype), align_corners=False)
        cells = nn.functional.avg_pool2d(samples, 2).unflatten(2, (self.proposals, self.CELLS))
        return cells.transpose(1, 2).flatten(2)

    def decode(self, output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes and scores of the second stage, as `Finder` says: (B, P, 4) and (B, P, K)."""
        rows = output[:, self.num_places :]
        return self.moved(rows), rows[..., : self.classes + 1].softmax(-1)[..., : self.classes]

    def moved(self, rows: torch.Tensor) -> torch.Tensor:
        """Boxes (..., 4) that rows of the second stage (..., classes + 9) come to."""
        shift, stretch, proposal = rows[..., self.classes + 1 :].split([2, 2, 4], -1)
        low, high = proposal.split(2, -1)
        center = (low + high) / 2 + shift * (high - low)
        half = (high - low) * stretch.clamp(max=4.135).exp() / 2
        return torch.cat([center - half, center + half], -1)

    def loss(self, output: torch.Tensor, boxes: list[torch.Tensor], labels: list[torch.Tensor]) -> torch.Tensor:
        """As `Finder` says: the first stage's own loss with one class, cross-entropy of the proposals' classes, and
        generalized IoU of those that overlap a lesion (IoU of 0.5 and more; those under that are nothing).

        Proposals of nothing count at most three times as much as those of lesions, as Faster R-CNN draws them.
        """
        from torchvision.ops import box_iou, generalized_box_iou_loss

        total = self.first.loss(output[:, : self.num_places, :6], boxes, [torch.zeros_like(k) for k in labels])
        kinds, fits, weights = (output.new_zeros(()) for _ in range(3))
        count = 0
        for row, there, known in zip(output[:, self.num_places :], boxes, labels, strict=True):
            wanted = torch.full((len(row),), self.classes, dtype=torch.int64, device=row.device)
            hits = torch.zeros(0, dtype=torch.int64, device=row.device)
            if len(there):
                best, which = box_iou(row[:, -4:].float().detach(), there.float()).max(1)
                hits = (best >= 0.5).nonzero()[:, 0]
                wanted[hits] = known[which[hits]]
                fits = fits + generalized_box_iou_loss(self.moved(row[hits]), there[which[hits]], reduction="sum")
            nothing = min(1.0, 3 * max(1, len(hits)) / max(1, len(row) - len(hits)))
            weight = torch.full((len(row),), nothing, dtype=row.dtype, device=row.device)
            weight[hits] = 1.0
            each = nn.functional.cross_entropy(row[:, : self.classes + 1], wanted, reduction="none")
            kinds, weights, count = kinds + (each * weight).sum(), weights + weight.sum(), count + len(hits)
        return total + kinds / weights + fits / max(1, count)
