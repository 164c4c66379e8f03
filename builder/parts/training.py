"""Optimizers, schedules and the settings of training. Pure data.

A parameter's name is the keyword argument of its target, so a choice becomes an object by `part.load()(..., **params)`.
"""

from builder.catalog import Catalog, Flag, Float, Idle, Int, OneOf, Part, Rule


def _rate(default: float) -> Float:
    return Float(
        "lr",
        default,
        1e-7,
        10.0,
        "Size of a step. Too high diverges, too low crawls.",
        log=True,
        title="Learning rate",
    )


_EPS = Float("eps", 1e-8, 1e-12, 0.1, "Small number that avoids division by zero.", log=True, title="Epsilon")

OPTIMIZERS = Catalog(
    "optimizer",
    (
        Rule(
            "sgd",
            "SGD",
            "torch.optim:SGD",
            "Stochastic gradient descent: one step down the slope of each batch (Robbins and Monro 1951).",
            (_rate(0.05),),
            "Plain",
        ),
        Rule(
            "momentum",
            "SGD with momentum",
            "torch.optim:SGD",
            "Steps gather speed along a steady slope (Polyak 1964); with Nesterov's look-ahead if wanted.",
            (
                _rate(0.02),
                Float("momentum", 0.9, 0.0, 0.999, "Share of the last step that is kept.", 0.01),
                Flag(
                    "nesterov",
                    True,
                    "Look ahead along the momentum before taking the slope (Nesterov 1983). Without momentum there is "
                    "nowhere to look.",
                ),
            ),
            "Plain",
            idle=(Idle("nesterov", "momentum", 0.0, "There is no momentum along which it could look ahead."),),
        ),
        Rule(
            "adagrad",
            "Adagrad",
            "torch.optim:Adagrad",
            "Own rate per weight, shrinking with all gradients seen; good for rare features (Duchi 2011).",
            (
                _rate(0.01),
                Float(
                    "lr_decay",
                    0.0,
                    0.0,
                    1.0,
                    "How fast the rate falls with the steps.",
                    0.001,
                    title="Decay of the rate",
                ),
            ),
            "Adaptive",
        ),
        Rule(
            "adadelta",
            "Adadelta",
            "torch.optim:Adadelta",
            "Adagrad with a forgetting memory: rates do not die out (Zeiler 2012).",
            (_rate(1.0), Float("rho", 0.9, 0.0, 0.999, "Memory of past gradients.", 0.01)),
            "Adaptive",
        ),
        Rule(
            "rmsprop",
            "RMSprop",
            "torch.optim:RMSprop",
            "Divides the rate by a running mean of the gradient's size (Hinton 2012). Good for RNNs.",
            (
                _rate(0.001),
                Float("alpha", 0.99, 0.0, 0.9999, "Memory of past gradients.", 0.01),
                Float("momentum", 0.0, 0.0, 0.999, "Share of the last step that is kept.", 0.01),
            ),
            "Adaptive",
        ),
        Rule(
            "adam",
            "Adam",
            "torch.optim:Adam",
            "Momentum and RMSprop together (Kingma and Ba 2015). A safe first choice.",
            (_rate(0.001), _EPS),
            "Adaptive",
        ),
        Rule(
            "adamw",
            "AdamW",
            "torch.optim:AdamW",
            "Adam whose L2 penalty is applied to the weights directly (Loshchilov and Hutter 2019).",
            (_rate(0.001), _EPS),
            "Adaptive",
        ),
        Rule(
            "nadam",
            "NAdam",
            "torch.optim:NAdam",
            "Adam that looks ahead along its momentum, as Nesterov does (Dozat 2016).",
            (_rate(0.001), _EPS),
            "Adaptive",
        ),
        Rule(
            "radam",
            "RAdam",
            "torch.optim:RAdam",
            "Adam that waits with its own rates per weight until it has seen enough gradients: a warm-up of its own (Liu "
            "2020).",
            (_rate(0.001), _EPS),
            "Adaptive",
        ),
        Rule(
            "lion",
            "Lion",
            "timm.optim:Lion",
            "Only the sign of the momentum counts, so every weight moves equally far (Chen 2023). Wants a rate three to "
            "ten times lower than AdamW's and a higher L2 penalty, which is applied to the weights directly.",
            (
                _rate(0.0002),
                Flag("caution", False, "Leave out weights whose step goes against their present slope (Liang 2024)."),
            ),
            "Adaptive",
            needs=("timm",),
        ),
        Rule(
            "lamb",
            "LAMB",
            "timm.optim:Lamb",
            "Adam whose step is measured by the size of each layer's weights: made for large batches (You 2020).",
            (_rate(0.003), _EPS),
            "Adaptive",
            fixed={"max_grad_norm": None},  # gradients are clipped by the loop, where it is asked for
            needs=("timm",),
        ),
    ),
)

_WARMUP = Int(
    "warmup_epochs", 0, 0, 100, "Epochs in which the rate climbs to its full value first, before the schedule begins."
)

SCHEDULES = Catalog(
    "schedule",
    (
        Part("constant", "Constant", "", "The learning rate stays as it is.", (_WARMUP,)),
        Part(
            "step",
            "Step",
            "",
            "The rate is multiplied by a factor every so many epochs.",
            (
                Int("every_epochs", 10, 1, 1000, "Epochs between two drops."),
                Float("factor", 0.1, 0.001, 0.99, "What the rate is multiplied by at each drop.", log=True),
                _WARMUP,
            ),
        ),
        Part(
            "exponential",
            "Exponential",
            "",
            "The rate shrinks by the same share every epoch, smoothly from step to step.",
            (
                Float("decay", 0.9, 0.1, 0.9999, "What is left of the rate after an epoch.", 0.01),
                _WARMUP,
            ),
        ),
        Part(
            "polynomial",
            "Polynomial",
            "",
            "The rate falls to nothing at the end: in a straight line (power 1) or bent (power 0.9 in DeepLab, Chen 2017).",
            (
                Float("power", 1.0, 0.1, 5.0, "1 = a straight line; more = falls early; less = falls late.", 0.1),
                _WARMUP,
            ),
        ),
        Part(
            "cosine",
            "Cosine",
            "",
            "The rate falls along half a cosine from its start to nearly zero (Loshchilov and Hutter 2017).",
            (
                Float("final_fraction", 0.0, 0.0, 1.0, "What is left of the rate at the end.", 0.01),
                Int("warmup_epochs", 0, 0, 100, "Epochs in which the rate climbs to its full value first."),
            ),
        ),
        Part(
            "restarts",
            "Cosine with restarts",
            "",
            "Falls along half a cosine, jumps back to the full rate and falls again, each time for longer (SGDR, "
            "Loshchilov and Hutter 2017).",
            (
                Int("first_epochs", 5, 1, 1000, "Epochs until the first restart."),
                Int("stretch", 2, 1, 10, "How many times longer each round is than the one before."),
                Float("final_fraction", 0.0, 0.0, 1.0, "What is left of the rate at the end of a round.", 0.01),
                _WARMUP,
            ),
        ),
        Part(
            "cyclic",
            "Cyclic",
            "",
            "The rate climbs and falls in straight lines, again and again (Smith 2017). It begins low by itself.",
            (
                Int("epochs_per_cycle", 4, 1, 1000, "Epochs of one climb and fall together."),
                Float("low_fraction", 0.1, 0.0001, 1.0, "The lowest rate as a share of the full one.", log=True),
                Float(
                    "shrink", 1.0, 0.1, 1.0, "What each climb is multiplied by; 0.5 = half as high every time.", 0.05
                ),
            ),
        ),
        Part(
            "one_cycle",
            "One cycle",
            "",
            "The rate climbs to its full value and falls to nearly zero (Smith 2018). Quick and robust from scratch.",
            (
                Float("rise_fraction", 0.3, 0.05, 0.9, "Share of the training in which the rate climbs.", 0.05),
                Float(
                    "start_divisor", 25.0, 1.0, 1000.0, "The rate starts at its full value divided by this.", log=True
                ),
            ),
        ),
        Part(
            "plateau",
            "On plateau",
            "",
            "The rate drops when the validation loss has not improved for some epochs.",
            (
                Int("wait_epochs", 3, 0, 100, "Epochs without improvement before a drop."),
                Float("factor", 0.3, 0.001, 0.99, "What the rate is multiplied by at each drop.", log=True),
                _WARMUP,
            ),
        ),
    ),
)

AVERAGES = Catalog(
    "average",
    (
        Part("none", "None", "", "The weights of the last step are judged and kept."),
        Part(
            "ema",
            "Moving average (EMA)",
            "builder.averaging:Ema",
            "A second set of weights follows the first one slowly. It is calmer and often better: it is what is judged, "
            "kept as the best and exported (Polyak and Juditsky 1992).",
            (
                Float(
                    "decay",
                    0.998,
                    0.5,
                    0.99999,
                    "Share of the average that is kept at each step: 0.998 looks back about 500 steps. Early steps count "
                    "more, so that it does not lag behind the start.",
                    log=True,
                ),
            ),
        ),
        Part(
            "swa",
            "Stochastic weight averaging (SWA)",
            "builder.averaging:Swa",
            "In the last part of the training the rate stays constant, and the weights at the end of each epoch are "
            "averaged: it ends in the middle of a wide valley (Izmailov 2018). Batch normalization is measured anew for "
            "the average. From then on the average is judged, kept as the best and exported.",
            (
                Float("start_share", 0.75, 0.1, 0.99, "Share of the epochs after which averaging begins.", 0.05),
                Float("rate", 0.3, 0.001, 1.0, "The constant rate then, as a share of the full one.", log=True),
            ),
        ),
    ),
)
"""Weights averaged over the steps: which are judged and kept."""

_TYPE_WEIGHT = Float(
    "type_weight",
    0.5,
    0.0,
    10.0,
    "How much a wrong type (cross-entropy) counts beside a wrong outline; 0 = the type is not learned.",
    0.1,
)

LOSSES = Catalog(
    "loss",
    (
        Part("usual", "The task's usual one", "", "What this task is mostly taught with; a safe first choice."),
        Part(
            "focal",
            "Focal",
            "builder.losses:Focal",
            "Cross-entropy that hardly counts what is right already: for rare classes (Lin 2017).",
            (Float("gamma", 2.0, 0.0, 5.0, "How strongly easy cases are turned down; 0 = cross-entropy.", 0.5),),
        ),
        Part(
            "dice_ce",
            "Dice and cross-entropy",
            "builder.losses:DiceCrossEntropy",
            "Overlap of the outlines (Milletari 2016) and cross-entropy of every pixel together: steady from the first "
            "step on, and good at small and large tumours. Where nothing else is chosen, this is the usual one.",
            (
                Float("dice", 0.5, 0.0, 1.0, "Share of the overlap; the rest is cross-entropy.", 0.05),
                _TYPE_WEIGHT,
            ),
            "Outline",
        ),
        Part(
            "dice_focal",
            "Dice and focal",
            "builder.losses:DiceFocal",
            "Overlap of the outlines together with a cross-entropy that hardly counts what is right already (Lin 2017): "
            "for tumours of a few pixels in a large scan.",
            (
                Float("dice", 0.5, 0.0, 1.0, "Share of the overlap; the rest is the focal loss.", 0.05),
                Float("gamma", 2.0, 0.0, 5.0, "How strongly easy pixels are turned down; 0 = cross-entropy.", 0.5),
                _TYPE_WEIGHT,
            ),
            "Outline",
        ),
        Part(
            "tversky",
            "Tversky",
            "builder.losses:Tversky",
            "An overlap in which missed pixels may cost more than false ones (Salehi 2017): for finding all of a tumour. "
            "With both costs 0.5 it is Dice.",
            (
                Float("alpha", 0.3, 0.0, 1.0, "Cost of a pixel that is wrongly inside.", 0.05, title="False pixel"),
                Float("beta", 0.7, 0.0, 1.0, "Cost of a pixel that is wrongly outside.", 0.05, title="Missed pixel"),
                Float(
                    "gamma",
                    1.0,
                    1.0,
                    3.0,
                    "Above 1, outlines that are nearly right count less (focal Tversky, Abraham 2019).",
                    0.25,
                ),
                _TYPE_WEIGHT,
            ),
            "Outline",
        ),
        Part(
            "lovasz",
            "Lovasz hinge",
            "builder.losses:Lovasz",
            "Follows the Jaccard index (IoU) itself (Berman 2018). Slow from scratch; it sharpens a network that can "
            "outline already, begun from weights.",
            (
                Flag("per_scan", False, "Take the index of each scan by itself instead of the whole batch's at once."),
                _TYPE_WEIGHT,
            ),
            "Outline",
        ),
        Part(
            "l1",
            "L1",
            "builder.restoration:l1",
            "Mean absolute difference of grey values: sharper pictures than MSE. The usual one of image enhancement.",
        ),
        Part(
            "mse",
            "MSE",
            "builder.restoration:mse",
            "Mean squared difference of grey values: what PSNR counts; softer pictures.",
        ),
        Part(
            "psnr",
            "PSNR",
            "builder.restoration:psnr",
            "The logarithm of each picture's MSE, so that scans with much noise and scans with little count alike, as they "
            "do in a mean PSNR (HINet, Chen 2021). MSE learns mostly from the noisiest.",
            (
                Float(
                    "softness",
                    0.001,
                    1e-5,
                    0.1,
                    "Differences below this, in standard deviations of the grey values, hardly count.",
                    log=True,
                ),
            ),
        ),
        Part(
            "charbonnier",
            "Charbonnier",
            "builder.restoration:charbonnier",
            "L1, smooth where the difference is nearly nothing (Charbonnier 1994).",
            (
                Float(
                    "softness",
                    0.01,
                    1e-4,
                    1.0,
                    "Differences below this, in standard deviations of the grey values, count as squares.",
                    log=True,
                ),
            ),
        ),
        Part(
            "l1_ssim",
            "L1 and SSIM",
            "builder.restoration:l1_ssim",
            "L1 together with structural similarity (Zhao 2017): texture and edges count beside grey values.",
            (Float("share", 0.15, 0.0, 0.9, "How much SSIM counts.", 0.05),),
        ),
    ),
)
"""What a wrong answer costs. Which of them a task offers, its `losses` say."""

GROUP = Part(
    name="group",
    title="Layers with rates of their own",
    target="",
    help="Some layers learn faster or slower, or are braked more or less, than the rest.",
    params=(
        Float(
            "lr_factor",
            1.0,
            0.0,
            100.0,
            "Their learning rate as a multiple of the rest's; 0 = they stay as they are, the statistics of their norms too.",
            title="Learning rate times",
        ),
        Float("l2_factor", 1.0, 0.0, 1000.0, "Their L2 penalty as a multiple of the rest's.", title="L2 penalty times"),
        Float("l1_factor", 1.0, 0.0, 1000.0, "Their L1 penalty as a multiple of the rest's.", title="L1 penalty times"),
    ),
)
"""What an entry of `training.groups` says besides its name and its layers."""

TRAINING = Part(
    name="training",
    title="Training",
    target="builder.train:train",
    help="How long, in what portions, and with which brakes the network learns.",
    params=(
        Int("epochs", 20, 1, 10_000, "How many times the network sees every training scan.", log=True),
        Int("batch_size", 32, 1, 4096, "Scans per step. More needs more memory and a higher learning rate.", log=True),
        Int(
            "accumulate",
            1,
            1,
            256,
            "Batches whose gradients are added before a step: a larger batch for the same memory.",
        ),
        Int(
            "seed", 0, 0, 2**31 - 1, "Fixes every random choice: the same seed gives the same run on the same machine."
        ),
        Float(
            "l1",
            0.0,
            0.0,
            1.0,
            "L1 penalty: adds this times the sum of absolute weights to the loss and drives weights to zero (Tibshirani 1996).",
            1e-6,
            title="L1 penalty",
        ),
        Float(
            "l2",
            0.0001,
            0.0,
            1.0,
            "L2 penalty (weight decay): pulls weights towards zero. With AdamW and Lion it is decoupled from the gradient.",
            1e-5,
            title="L2 penalty",
        ),
        Float(
            "label_smoothing", 0.0, 0.0, 0.5, "Share of each label spread over all classes: less over-confidence.", 0.01
        ),
        OneOf(
            "balance",
            "none",
            ("none", "weights", "sampler"),
            "What is done for rare classes. weights: each class counts the same in the loss. sampler: each class is seen "
            "equally often in an epoch of the same length; scans of rare classes come several times. Of outlines without "
            "two types: scans with a tumor and scans without.",
            title="Class balance",
        ),
        OneOf(
            "init",
            "usual",
            ("usual", "he", "xavier", "orthogonal"),
            "How the weights of convolutions, linear and recurrent layers are drawn before learning begins. usual: each "
            "layer's own way; he: for ReLUs (He 2015); xavier: for tanh and sigmoid (Glorot 2010); orthogonal: nothing "
            "grows or shrinks at first (Saxe 2014). Pretrained weights and heads stay as they are.",
            title="First weights",
        ),
        Float(
            "clip_norm",
            1.0,
            0.0,
            1000.0,
            "Gradients longer than this are shortened to it; 0 = never. Cures explosions.",
            0.1,
            title="Gradient clipping",
        ),
        Float(
            "clip_value",
            0.0,
            0.0,
            1000.0,
            "Each single number of a gradient is cut off at plus and minus this; 0 = never. Before clipping by length.",
            0.1,
            title="Gradient clipping by value",
        ),
        Float(
            "backbone_rate",
            1.0,
            0.001,
            10.0,
            "Learning rate of ready-made backbones and of layers that begin with stored weights, as a share of the rest's: "
            "0.1 keeps what they know.",
            log=True,
            title="Rate of the backbone",
        ),
        Int(
            "patience",
            0,
            0,
            1000,
            "Early stopping: end after this many epochs without a better score; 0 = never.",
            title="Early stopping after",
        ),
        Float(
            "min_delta",
            0.0,
            0.0,
            1.0,
            "Early stopping counts an epoch as better only where its score gained more than this.",
            0.001,
            title="Smallest gain that counts",
        ),
        OneOf(
            "monitor",
            "auc",
            (
                *("auc", "balanced_accuracy", "accuracy", "f1"),
                *("map50", "map", "cpm"),
                *("dice", "iou"),
                *("psnr_db", "ssim", "rmse"),
                "loss",
            ),
            "The validation score that decides which epoch is the best and when to stop early.",
        ),
        OneOf(
            "mixed_precision",
            "auto",
            ("auto", "off", "bfloat16", "float16"),
            "auto: bfloat16 arithmetic on a GPU that has it, about twice as fast, and float32 on a processor. bfloat16 and "
            "float16 (with scaled losses, for GPUs before 2020) are used wherever the run computes.",
        ),
        OneOf(
            "compile",
            "off",
            ("off", "auto", "on", "graphs"),
            "Lets torch compile the network before it learns (torch.compile). auto: a long training tries it at its start, "
            "side by side with the plain way, and keeps the faster one; on: without regard to the gain; graphs: as CUDA "
            "graphs, for small networks on a GPU. The log tells what came out. Compiled steps round otherwise.",
        ),
        OneOf(
            "resident",
            "auto",
            ("auto", "off"),
            "auto: the scans lie in the memory of the GPU where they take less than a quarter of what is free; off: each "
            "batch comes from the disk. On a processor there is nothing to choose.",
            title="Scans on the GPU",
        ),
        Flag("channels_last", True, "Memory order that convolutions like on a GPU."),
        OneOf(
            "border",
            "black",
            ("black", "edge", "mirror"),
            "What augmentation shows where a moved scan leaves the picture empty: black, its edge drawn out, or its mirror "
            "image. Boxes and outlines go with black only: what is mirrored in carries none.",
            title="Beyond the border",
        ),
        OneOf(
            "test_time",
            "off",
            ("off", "mirror", "mirror both", "quarter turns", "small turns"),
            "Asks the network about several views of a scan and averages the answers, in judging and in use. mirror: 2 "
            "views; mirror both ways: 4; quarter turns: 8, for pictures without up and down; small turns: 3. As many "
            "times slower in use.",
            title="Test-time views",
        ),
        Int(
            "checkpoint_every_s",
            60,
            1,
            3600,
            "Longest time of work that a crash may cost, besides whole epochs.",
            unit="s",
        ),
        Int(
            "processes",
            1,
            1,
            64,
            "How many processes share each batch, each on a graphics card or machine of its own: for a run that one "
            "is too slow for. Needs a cluster; it learns what one process would.",
            title="Processes",
        ),
    ),
)
