"""What can be asked before a run is trusted, without a browser: its terms, its maps, what it makes up; see `commands`.

Each command takes the parsed arguments and returns (answer, words): the documented JSON object, and that for people.
Its docstring is the layout of the JSON.
"""

from __future__ import annotations

import argparse
from typing import Any

from builder.commands import Answer, Mistake, Telling, data_folder, run_of, table, with_interval


def terms(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, temperature, by, wanted, limit, gate, confidence (what the validation side says, or null), on_test: {n,
    answered, right, silent_right} | null (while the test side is closed, or every scan is answered), stops: {own,
    foreign} | null}

    With --calibrate, --answer, --mistakes, --gate new terms are chosen; what is not named stays as it is.
    """
    from builder import calibrate, gate
    from builder.data import Dataset
    from builder.terms import ALWAYS, COVERAGE, RISK

    run, told = run_of(asked.run), Telling()
    now = calibrate.chosen(run)
    choices: dict[str, Any] = {"calibrated": now.temperature is not None, "by": now.by, "wanted": now.wanted}
    choices |= {"gate": asked.gate or now.gate}
    if asked.calibrate:
        choices["calibrated"] = asked.calibrate == "on"
    if asked.answer is not None:
        by, wanted = (ALWAYS, 1.0) if asked.answer >= 1 else (COVERAGE, asked.answer)
        choices |= {"by": by, "wanted": wanted}
    if asked.mistakes is not None:
        choices |= {"by": RISK, "wanted": asked.mistakes}
    confidence = calibrate.kept(run)
    try:
        if (choices["calibrated"] or choices["by"]) and confidence is None:
            confidence = calibrate.judge(
                run, data_folder(), lambda done, total: told.show(done, total, "asking the validation scans")
            )
            told.end()
        if any(value is not None for value in (asked.calibrate, asked.answer, asked.mistakes, asked.gate)):
            now = calibrate.choose(run, **choices)
        if asked.measure is not None:
            other = Dataset.open(data_folder(), asked.measure).id if asked.measure else ""
            gate.measure(run, data_folder(), other, lambda done, total: told.show(done, total, "looking at scans"))
            told.end()
    except ValueError as error:
        raise Mistake(str(error)) from error
    stops = gate.kept(run)
    found = {name: value for name, value in now.plain().items() if name not in ("weights", "at")}
    answer = {"run": run.id, **found, "confidence": confidence, "on_test": None, "stops": None}
    answer["on_test"] = calibrate.on_test(run) if now.limit is not None else None
    answer["stops"] = None if stops is None else {name: stops[name] for name in ("own", "foreign")}
    lines = [f"temperature {now.temperature:.3f}" if now.temperature else "its probabilities as the network gives them"]
    lines.append("answers every scan" if now.limit is None else f"answers from a confidence of {now.limit:.4f} on")
    if answer["on_test"]:
        lines.append(
            f"  on the test scans it answers {with_interval(answer['on_test']['answered'])}, of those right "
            f"{with_interval(answer['on_test']['right'])}"
        )
    lines.append(f"scans unlike its own: {'refused' if now.gate == 'refuse' else 'answered with a warning'}")
    if stops is not None:
        lines.append(f"  of {stops['own']['n']} own validation scans it stops {with_interval(stops['own']['stopped'])}")
        lines += [f"  of {row['n']} of {row['name']}: {with_interval(row['stopped'])}" for row in stops["foreign"]]
    return answer, "\n".join(lines)


def explain(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{run, checkpoint, n, learned: {ok, reason}, methods: {name: {ok, reason, randomised, shifted, empty, lesions}}}:
    the tests that heat maps of a run must pass, and how much of them lies on drawn lesions (validation side)"""
    from builder.saliency import METHODS
    from builder.sanity import examine

    told = Telling()
    found = examine(
        run_of(asked.run), data_folder(), lambda done, total: told.show(done, total, "with and without its weights")
    )
    told.end()
    rows = [("", "without weights", "moved", "hottest place on a lesion", "")]
    for name, row in found["methods"].items():
        hit = with_interval(row["lesions"]["hit"]) if row["lesions"] else "–"
        alike = f"{row['randomised']['all']:.2f}", f"{row['shifted']:.2f}"
        rows.append((METHODS[name].title, *alike, hit, row["reason"] or "passed"))
    return found, f"How like maps are (rank correlation), {found['n']} validation scans\n{table(rows)}"


def hallucinations(asked: argparse.Namespace) -> tuple[Answer, str]:
    """{structures: {run, n, patients, ways: {way: {kind: {value, low, high}}}, slices, shown, verdicts}, diagnosis:
    null or {judge, n, before, after, gain, changed: {value, low, high}, better, worse, verdict, words}}

    What an enhancer makes up or hides on the validation side, and with --judge whether a diagnosis is more often right
    on its scans.
    """
    from builder.hallucination import WAYS, audit, diagnose
    from builder.measures.structures import KINDS

    run, told = run_of(asked.run), Telling()
    found = audit(run, data_folder(), lambda done, total: told.show(done, total, "searching restored scans"))
    told.end()
    diagnosis = None
    if asked.judge:
        judge = run_of(asked.judge)
        diagnosis = diagnose(run, judge, data_folder(), lambda done, total: told.show(done, total, "asking twice"))
        told.end()
    rows = [("a slice, on average", *(kind.replace("_", " ") for kind in KINDS))]
    rows += [(WAYS[way], *(with_interval(row[kind]) for kind in KINDS)) for way, row in found["ways"].items()]
    lines = [f"{found['n']} validation slices of {found['patients']} patients", table(rows), *found["verdicts"]]
    if diagnosis is not None:
        lines.append(diagnosis["words"])
    return {"structures": found, "diagnosis": diagnosis}, "\n".join(lines)
