"""Strategies, pruners and the settings of a search. Pure data; `builder.search` carries them out with Optuna."""

from builder.catalog import Catalog, Float, Int, Part

_FIRST_RANDOM = Int(
    "first_random",
    10,
    1,
    1000,
    "Trials that are drawn at random first, so that there is something to learn from.",
    title="Random at first",
)

STRATEGIES = Catalog(
    "strategy",
    (
        Part(
            "grid",
            "Grid",
            "builder.search.strategies:grid",
            "Tries every combination once, in order: for two or three choices with few values each, when the whole table "
            "is wanted.",
            (Int("points", 3, 2, 100, "How many values of a range are tried, evenly spread over it."),),
        ),
        Part(
            "random",
            "Random",
            "builder.search.strategies:random",
            "Draws every trial by chance: the honest yardstick, and hard to beat with many trials at once or when nothing "
            "is known (Bergstra and Bengio 2012).",
        ),
        Part(
            "tpe",
            "TPE",
            "builder.search.strategies:tpe",
            "Learns from the trials so far which values are promising: a safe first choice for 20 to 200 trials of any "
            "kind of choice (tree-structured Parzen estimator, Bergstra 2011).",
            (_FIRST_RANDOM,),
        ),
        Part(
            "cmaes",
            "CMA-ES",
            "builder.search.strategies:cmaes",
            "Moves and stretches a cloud of trials towards the best ones: for two or more numbers (no words) that act "
            "together, with 100 trials or more (Hansen 2016).",
            (_FIRST_RANDOM,),
        ),
    ),
)
"""How the next trial is chosen."""

_LEAST_EPOCHS = Int("least_epochs", 1, 1, 1000, "No trial is ended before it has had this many epochs.")

PRUNERS = Catalog(
    "pruner",
    (
        Part("none", "None", "", "Every trial runs to its end: when a trial is cheap, or slow starters may win."),
        Part(
            "median",
            "Median",
            "builder.search.strategies:median",
            "Ends a trial that is worse than the median of the earlier ones at the same epoch: mild, good with few trials "
            "(Golovin 2017).",
            (
                Int("first_whole", 5, 1, 1000, "Trials that run to their end first, for comparison."),
                _LEAST_EPOCHS,
            ),
        ),
        Part(
            "asha",
            "Successive halving (ASHA)",
            "builder.search.strategies:asha",
            "Lets only the best share of the trials go on to several times as many epochs, again and again: saves most of "
            "the time where early scores already tell (Li 2020).",
            (
                _LEAST_EPOCHS,
                Int("factor", 3, 2, 10, "One in so many trials goes on; each time with so many times the epochs."),
            ),
        ),
        Part(
            "hyperband",
            "Hyperband",
            "builder.search.strategies:hyperband",
            "Successive halving begun at several numbers of epochs: where it is not known how soon scores tell; wants many "
            "trials (Li 2018).",
            (
                _LEAST_EPOCHS,
                Int("factor", 3, 2, 10, "One in so many trials goes on; each time with so many times the epochs."),
            ),
        ),
    ),
)
"""When a trial that looks poor is ended early."""

COSTS = Catalog(
    "cost",
    (
        Part("parameters", "Parameters", "", "Learned numbers of the network; known before anything is trained."),
        Part(
            "milliseconds",
            "Milliseconds per scan",
            "",
            "Time of the network for one scan on this machine's processor, measured before anything is trained.",
        ),
        Part(
            "memory_mb",
            "Memory (MB)",
            "",
            "Estimated memory of the training in megabytes (of 1,048,576 bytes); known before anything is trained.",
        ),
    ),
)
"""What a network costs: limits of a search, or objectives that shall be small."""

SEARCH = Part(
    name="search",
    title="Search",
    target="builder.search.driver:drive",
    help="How many trials, how many at once, and what no trial may exceed.",
    params=(
        Int("num_trials", 20, 1, 100_000, "How many trials are trained.", log=True, title="Trials"),
        Float(
            "max_minutes",
            0.0,
            0.0,
            1_000_000.0,
            "No trial begins after the search has worked this long; 0 = no limit.",
            unit="min",
            title="Time limit",
        ),
        Float(
            "max_gpu_hours",
            0.0,
            0.0,
            1_000_000.0,
            "No trial begins after all trials together have computed this long (on a processor, where there is no GPU); "
            "0 = no limit.",
            unit="h",
            title="GPU-hours",
        ),
        Int(
            "parallel",
            1,
            1,
            1000,
            "How many trials are in the queue at once. With one, the same seed gives the same search.",
            log=True,
            title="Trials at once",
        ),
        Int("seed", 0, 0, 2**31 - 1, "Fixes how trials are drawn."),
        Int(
            "max_parameters",
            0,
            0,
            10**12,
            "Networks with more learned numbers are not tried; 0 = no limit.",
            title="Most parameters",
        ),
        Float(
            "max_milliseconds",
            0.0,
            0.0,
            1_000_000.0,
            "Networks that need longer for one scan on this machine's processor are not tried; 0 = no limit.",
            unit="ms",
            title="Longest time per scan",
        ),
        Float(
            "max_memory_mb",
            0.0,
            0.0,
            10_000_000.0,
            "Trials that need more memory to train are not tried; 0 = no limit.",
            unit="MB",
            title="Most memory",
        ),
    ),
)
"""What `Experiment.search` says besides its space, strategy, pruner and objectives."""
