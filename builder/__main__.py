"""The headless twin of the pages: python -m builder COMMAND, on the same engine and the same data folder.

With --json there is one JSON object on stdout; words and progress go to stderr. Exit code: 0 done; 2 a mistake that can
be put right, told in one sentence; 1 a fault of ours. SCANLOOM_HOME says where data sets and runs live (~/.scanloom).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import NoReturn

from builder import commands, round_commands, run_commands, study_commands, trust_commands
from builder.commands import Answer, Mistake, put, say
from builder.execute import home
from builder.parts.search import STRATEGIES


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        say("Interrupted.")
        return 130
    except BrokenPipeError:  # whoever read has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1


def _run(arguments: Sequence[str] | None) -> int:
    try:
        asked = _parser().parse_args(arguments)
    except Mistake as error:
        return _refused(error, "--json" in (sys.argv[1:] if arguments is None else arguments))
    try:
        answer, words = asked.command(asked)
        _print(answer if asked.json else words)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _failed(error, asked.json)
    return 0


def _print(told: Answer | str) -> None:
    if not isinstance(told, str):
        narrow = (sys.stdout.encoding or "utf-8").lower() not in ("utf-8", "utf8")
        told = json.dumps(told, ensure_ascii=narrow, allow_nan=False)
    put(told)


def _refused(error: Mistake, as_json: bool) -> int:
    say(str(error))
    if as_json:
        _print(error.answer or {"error": str(error)})
    return 2


def _failed(error: Exception, as_json: bool) -> int:
    """Exit code 2 for words that the engine wrote for people, 1 for a fault of ours, with its places in the code."""
    from builder.faults import note_fault, sentence

    words = sentence(error, "command")
    if not words.startswith("A fault of ScanLoom's own"):
        return _refused(error if isinstance(error, Mistake) else Mistake(words), as_json)
    words = f"A fault of ScanLoom's own ({type(error).__name__}); please report it with the lines below."
    say(words)
    note_fault(error, private=False, root=home())
    if as_json:
        _print({"error": words})
    return 1


# -- what can be typed ------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise Mistake(f"{message[:1].upper()}{message[1:].rstrip('.')}. Try: {self.prog} --help")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="python -m builder",
        description="ScanLoom without a browser: import scans, train, evaluate, predict, export. Not for clinical use.",
        epilog=f"SCANLOOM_HOME says where data sets and runs live (now: {str(home()).replace('%', '%%')}).",
    )
    common = _Parser(add_help=False)
    common.add_argument("--json", action="store_true", help="one JSON object on stdout, words on stderr")
    typed = parser.add_subparsers(dest="name_of_command", metavar="COMMAND", required=True, parser_class=_Parser)

    def command(
        name: str, run: Callable[[argparse.Namespace], tuple[Answer, str]], help: str
    ) -> argparse.ArgumentParser:
        made = typed.add_parser(name, help=help, parents=[common], description=f"{help} JSON: {run.__doc__}")
        made.set_defaults(command=run)
        return made

    made = command(
        "import", commands.import_, "Import scans: a folder, a folder per class, a zip, a MedMNIST npz, one file."
    )
    made.add_argument("source", metavar="SOURCE")
    made.add_argument("--name", required=True, help="of the data set")
    made.add_argument("--task", default="recognition", help="what shall be learned (default %(default)s)")
    made.add_argument(
        "--labels",
        metavar="FILE",
        help="a table (CSV) with the columns file, label and perhaps patient, split, x0, y0, x1, y1, slice, mask, "
        "target; a COCO file (JSON); or the data.yaml of YOLO labels",
    )
    made.add_argument(
        "--patient-pattern", metavar="RE", help="regular expression whose group finds the patient in a path"
    )
    kinds = ("folder", "classes", "csv", "medmnist", "voc", "yolo", "coco", "masks", "pairs")
    made.add_argument(
        "--kind", choices=kinds, help="what SOURCE is, where it is not seen rightly (DICOM in class folders)"
    )
    made.add_argument(
        "--keep-out-of",
        choices=("train", "val", "test"),
        nargs="+",
        metavar="SIDE",
        help="sides that take no more scans: test, once it was opened",
    )
    made.add_argument("--into", metavar="DATASET", help="add to this data set instead of making a new one")
    made.add_argument(
        "--new-classes",
        nargs="+",
        metavar="NAME",
        help="with --into: these join the data set's classes; runs trained before go on knowing the fewer",
    )
    made.add_argument("--split", default="0.7,0.15,0.15", help="shares of train, val and test (default %(default)s)")
    made.add_argument("--seed", type=int, default=0, help="of the split")
    made = command("export-labels", commands.export_labels, "Take labels away, with their scans, in a common format.")
    made.add_argument("dataset", metavar="DATASET", help="id or name")
    made.add_argument(
        "--to",
        required=True,
        choices=("voc", "yolo", "coco", "csv", "png", "nifti", "nrrd", "dicom-seg"),
        help="voc, yolo, coco and csv for boxes; png, nifti, nrrd and dicom-seg for masks",
    )
    made.add_argument("--out", required=True, metavar="FOLDER", help="a folder that is empty or not there yet")
    made = command("tell", commands.tell, "Tell of sex, age, scanner, site of patients whose scans are there already.")
    made.add_argument("dataset", metavar="DATASET", help="id or name of the data set")
    made.add_argument("table", metavar="TABLE", help="CSV: patient, and sex, age, scanner, site, source, group_*")
    command("starters", commands.starters, "List the ready experiments.")
    made = command("weights", commands.weights, "Take in a file of pretrained weights, or fetch those that timm knows.")
    made.add_argument("file", metavar="FILE", nargs="?", help=".safetensors, .pth or .pt")
    made.add_argument("--fetch", metavar="MODEL", help="a timm model; says first which server it contacts")
    made = command("starter", commands.starter, "Print a ready experiment, to be kept as a file.")
    made.add_argument("name", metavar="NAME")
    for name, run, help in (
        ("plan", commands.plan, "Shapes, parameters and cost of an experiment's network."),
        ("check", commands.check, "Everything that is wrong with an experiment; a data set may still be missing."),
        ("train", commands.train, "Train an experiment."),
        ("preflight", commands.preflight, "A few real steps: memory, the largest safe batch, time of an epoch."),
    ):
        made = command(name, run, help)
        made.add_argument("experiment", metavar="FILE", help='the experiment as JSON; "-" reads it from stdin')
        made.add_argument("--data", metavar="N", help="id or name of the data set")
        made.add_argument("--set", metavar="PATH=VALUE", nargs="+", action="extend", help="as in training.epochs=3")
    _of_rounds(command)
    made = command("search", study_commands.search, "Which settings win: try those that an experiment leaves open.")
    made.add_argument("experiment", metavar="FILE|STUDY", help="the experiment as JSON; with --resume a study")
    made.add_argument("--data", metavar="N", help="id or name of the data set")
    made.add_argument("--set", metavar="PATH=VALUE", nargs="+", action="extend", help="as in training.epochs=3")
    made.add_argument("--trials", type=int, metavar="N", help="how many; with --resume how many more")
    made.add_argument("--strategy", choices=STRATEGIES.names, help="how trials are chosen")
    made.add_argument("--resume", action="store_true", help="let a study go on that was stopped or interrupted")
    command("runs", commands.runs, "List the runs, the newest first.")
    _of_runs(command)
    made = command("evaluate", commands.evaluate, "Figures with 95 %% intervals on a split of the data set.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--split", default="test", choices=("train", "val", "test"))
    made.add_argument("--by", metavar="WHAT", help="also by sex, age, site, scanner, ...; all for everything known")
    made = command(
        "baseline", commands.baseline, "The number to beat: frozen features of a packaged network, no training."
    )
    made.add_argument("dataset", metavar="DATASET", help="id or name of the data set")
    made.add_argument("--test", action="store_true", help="also on the test side, which counts as an opening of it")
    made = command("audit", commands.audit, "What leaks between the sides, what gives the label away, doubtful labels.")
    made.add_argument("dataset", metavar="DATASET", help="id or name of the data set")
    made.add_argument("--quick", action="store_true", help="without the network's features: seconds a thousand scans")
    made = command(
        "shortcuts", commands.shortcuts, "What does a run go by? Its answers with parts of scans taken away."
    )
    made.add_argument("run", metavar="RUN")
    made = command("errors", commands.errors, "Have its errors something in common? Kinds of scans on which it errs.")
    made.add_argument("run", metavar="RUN")
    made = command("terms", trust_commands.terms, "On which terms does a run answer? Shows them, or chooses them.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--calibrate", choices=("on", "off"), help="put the validation side's temperature to its answers")
    by = made.add_mutually_exclusive_group()
    by.add_argument("--answer", type=float, metavar="SHARE", help="answer this share of scans, the surest; 1 is all")
    by.add_argument("--mistakes", type=float, metavar="SHARE", help="at most this share of its answers may be wrong")
    made.add_argument("--gate", choices=("warn", "refuse"), help="what is done with scans unlike its own")
    made.add_argument(
        "--measure", nargs="?", const="", metavar="DATASET", help="measure what the gate stops, also of this data set"
    )
    made = command("explain", trust_commands.explain, "Can its heat maps be believed? Tests that they must pass.")
    made.add_argument("run", metavar="RUN")
    made = command(
        "hallucinations", trust_commands.hallucinations, "What does an enhancer make up or hide, and who is misled?"
    )
    made.add_argument("run", metavar="RUN", help="an image enhancement run")
    made.add_argument("--judge", metavar="RUN", help="a run that tells classes, to be asked before and after")
    made = command("predict", commands.predict, "Ask a run about scans.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("scans", metavar="SCAN", nargs="+", help="a file, or a folder that holds one series")
    made.add_argument(
        "--out", metavar="FOLDER", help="write restored scans and outlines there, as files like the scan's"
    )
    made = command(
        "second-opinion",
        commands.second_opinion,
        "Does a diagnosis run change its mind on scans that another restored?",
    )
    made.add_argument("run", metavar="RUN", help="an image enhancement run")
    made.add_argument("judge", metavar="JUDGE", help="a run that tells classes")
    made.add_argument("scans", metavar="SCAN", nargs="+", help="a file, or a folder that holds one series")
    made = command("export", commands.export, "Take a network away, with a proof that it answers the same.")
    made.add_argument("run", metavar="RUN|FILE", help="a run, or an experiment as JSON, untrained")
    made.add_argument(
        "--to", default="pytorch", metavar="FORMAT", help="pytorch, keras, onnx, torch-export, document or svg"
    )
    made.add_argument("--out", metavar="FOLDER", help="where to (default: the run's own folder, or this one)")
    made.add_argument("--data", metavar="N", help="id or name of the data set of an experiment")
    made = command("import-network", commands.import_network, "Turn a Keras model or an ONNX graph into an experiment.")
    made.add_argument("file", metavar="FILE", help="a .keras file, the JSON of a Keras model, or an .onnx file")
    made.add_argument("--weights", metavar="OUT", help="also write its weights to this .safetensors file")
    return parser


def _of_rounds(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands about questions that take several runs."""
    for name, run, help in (
        ("crossvalidate", round_commands.crossvalidate, "Hold every scan out once: figures over all of them."),
        (
            "forecast",
            round_commands.forecast,
            "Do I have enough data? A learning curve and what more scans would give.",
        ),
    ):
        made = command(name, run, help)
        made.add_argument(
            "experiment", metavar="FILE|ROUND", help="the experiment as JSON; a round's id goes on with it"
        )
        made.add_argument("--data", metavar="N", help="id or name of the data set")
        made.add_argument("--set", metavar="PATH=VALUE", nargs="+", action="extend", help="as in training.epochs=3")
        usual = round_commands.USUAL
        made.add_argument("--seed", type=int, help=f"of the folds or parts (default {usual['seed']})")
        made.add_argument("--queue", action="store_true", help="only put the runs into the queue of the app")
        if name == "crossvalidate":
            made.add_argument("--folds", type=int, help=f"2 to 20 (default {usual['folds']})")
            made.add_argument("--repeats", type=int, help=f"fold anew so many times (default {usual['repeats']})")
            made.add_argument("--nested", action="store_true", help="the document's search inside each fold")
        else:
            made.add_argument("--draws", type=int, help=f"parts of each small size (default {usual['draws']})")


def _of_runs(command: Callable[..., argparse.ArgumentParser]) -> None:
    """The commands about runs that are there."""
    made = command("cluster", run_commands.cluster, "Make this machine part of a cluster, until Ctrl-C.")
    made.add_argument("part", choices=("head", "join"), help="head: the first machine; join: a further one")
    made.add_argument("head", metavar="HOST:PORT", nargs="?", help="the head that a further machine joins")
    made.add_argument("--address", metavar="IP", help="of this machine, as the others reach it (default: found)")
    made.add_argument("--ray", metavar="WORD", nargs="+", help="more words for 'ray start', as in --ray=--num-gpus=2")
    made = command("pause", run_commands.pause, "Let a training wait where it is, ready to go on at once.")
    made.add_argument("run", metavar="RUN")
    made = command("resume", run_commands.resume, "Let a paused, stopped, failed or lost run go on.")
    made.add_argument("run", metavar="RUN")
    made = command(
        "branch", run_commands.branch, "A new run that goes on from what another has saved, with choices changed."
    )
    made.add_argument("run", metavar="RUN", help="the parent; it is left as it is")
    made.add_argument("--set", metavar="PATH=VALUE", nargs="+", action="extend", help="as in training.epochs=30")
    made.add_argument("--best", action="store_true", help="from the end of its best epoch, not from its newest state")
    made.add_argument("--queue", action="store_true", help="only put it into the queue of the app")
    made = command("compare", run_commands.compare, "Is the second run shown to be better than the first?")
    made.add_argument("first", metavar="RUN")
    made.add_argument("second", metavar="RUN")
    made.add_argument(
        "--split",
        default="val",
        choices=("val", "test"),
        help="test takes two runs that were evaluated on it (default %(default)s)",
    )
    made = command("note", run_commands.note, "Read or write notes and tags of a run.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("text", metavar="TEXT", nargs="?", help="a note; without it what is there is told")
    made.add_argument("--tag", action="append", metavar="TAG")
    made.add_argument("--untag", action="append", metavar="TAG")
    made.add_argument("--who", default="", metavar="NAME", help="whose note it is")
    made = command(
        "evidence", run_commands.evidence, "The evidence pack of a run: report, figures, weights and hashes."
    )
    made.add_argument("run", metavar="RUN")
    made.add_argument("--out", metavar="FOLDER", help="where to (default: the run's own folder)")
    made = command("verify", run_commands.verify, "Does an evidence pack still hold? Every number, computed again.")
    made.add_argument("pack", metavar="PACK", help="the zip or the folder of a pack")
    made = command("queue", run_commands.queue, "What waits, and its order.")
    made.add_argument("run", metavar="RUN", nargs="?")
    ways = made.add_mutually_exclusive_group()
    for way in ("up", "down", "cancel"):
        ways.add_argument(f"--{way}", action="store_true")
    made = command("readings", run_commands.readings, "Readers alone, the model alone, and both, on the same scans.")
    made.add_argument("run", metavar="RUN")
    made = command("serve", run_commands.serve, "Let a run answer other programs: upload a scan, get predict's JSON.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--port", type=int, default=8600, help="0 takes any free one (default %(default)s)")
    made.add_argument(
        "--address", default="127.0.0.1", help="of this machine only by default; any other needs a token, see README"
    )
    made = command("delete", run_commands.delete, "Delete a run, or a search with its trials; both can come back.")
    made.add_argument("run", metavar="RUN")
    made.add_argument("--undo", action="store_true", help="bring it back")


if __name__ == "__main__":
    sys.exit(main())
