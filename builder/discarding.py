"""A search is deleted with all that is part of it: its trials, questions about its winner, searches in its folds."""

from __future__ import annotations

from builder import nested, seeds, wastebin
from builder.rounds import RoundStore
from builder.runs import Run, RunStore, StoreError
from builder.search.studies import Study, trial_of


def discard(study: Study) -> None:
    """Deletes a search that is not at work, so that `wastebin.restore` brings it back whole.

    Raises:
        StoreError: it, a trial, or something that is asked about its winner waits or works.
    """
    folds = [fold for one in nested.known(study.home, study.id) for fold in one.studies()]
    if any(one.view().active for one in (study, *folds) if one.folder.is_dir()):
        raise StoreError("This search, or one inside its folds, is still at work: stop it first.")
    belonging = parts(study)
    for name in belonging:
        place, _, id = name.partition("/")
        run = Run(study.home, id)
        if place == "runs" and run.marker.exists() and run.view().active:
            raise StoreError(f"The run {id}, which belongs to this search, still waits or learns: stop it first.")
    wastebin.put(study.home, "studies", study.id, belonging)


def parts(study: Study) -> list[str]:
    """The folders that belong to a search, such as "runs/20260115-141503-f07733": the runs first, as they are most."""
    home = study.home
    estimates = nested.known(home, study.id)
    rounds = [one for one in RoundStore(home).rounds(seeds.KIND) if one.plan.get("of") == study.id]
    studies = {fold.id for one in estimates for fold in one.studies() if fold.folder.is_dir()}
    wanted = {study.id, *studies}
    members = {run.id for one in rounds for run in one.runs()}
    runs = [
        run.id
        for run in RunStore(home).runs(archived=True)
        if run.id in members or ((trial := trial_of(run.folder)) is not None and trial[0] in wanted)
    ]
    return [
        *(f"runs/{id}" for id in runs),
        *(f"studies/{id}" for id in sorted(studies)),
        *(f"rounds/{one.id}" for one in rounds),
        *(f"nested/{one.id}" for one in estimates),
    ]
