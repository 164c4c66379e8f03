"""CLAIM 2024 and TRIPOD+AI, filled in as far as a run can know, with what only people can answer left open and listed.

Items and their numbers: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update,
Radiology: Artificial Intelligence 6(4):e240300 (44 items); Collins et al., TRIPOD+AI statement, BMJ 385:e078378, 2024
(27 items). They are worded here in short and in our own words: the publications count.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builder.evidence import words
from builder.evidence.facts import Facts

SOURCES = {
    "CLAIM 2024": "Tejani et al., Radiology: Artificial Intelligence 6(4):e240300, 2024. Worded in short.",
    "TRIPOD+AI": "Collins et al., BMJ 385:e078378, 2024. Worded in short.",
}


@dataclass(frozen=True)
class Asks:
    """An item: its number and section there, what is asked, what of `known` answers it, and what people must add.

    An item with `known` and without `rest` is answered; with both it is answered in part; without `known` it is open.
    """

    number: str
    section: str
    text: str
    known: str = ""
    rest: str = ""


@dataclass(frozen=True)
class Filled:
    """An item with its answer. state: "answered", "partly" or "open"."""

    number: str
    section: str
    text: str
    state: str
    answer: str
    rest: str


CLAIM = (
    Asks("1", "Title", "Named as a study of AI, with the kind of technique", "kind", "the title itself"),
    Asks("2", "Abstract", "Summary of design, methods, results and conclusions", "", "the abstract"),
    Asks(
        "3", "Introduction", "Background, intended use and role of the model", "", "what it is meant for, and for whom"
    ),
    Asks("4", "Introduction", "Aims and hypotheses", "", "the aim and what was expected beforehand"),
    Asks("5", "Study design", "Prospective or retrospective", "", "when and for what the scans were collected"),
    Asks("6", "Study design", "Goal of the study", "goal", "why it was undertaken"),
    Asks("7", "Data", "Sources of the data", "source", "institutions, dates, and whether the data are public"),
    Asks("8", "Data", "Who and what was taken in and left out", "flow", "clinical criteria of inclusion"),
    Asks("9", "Data", "Preprocessing", "preparation"),
    Asks("10", "Data", "Choice of subsets", "subsets"),
    Asks("11", "Data", "De-identification", "privacy", "what was done before the scans came here"),
    Asks("12", "Data", "Missing data", "missing"),
    Asks("13", "Data", "How the scans were acquired", "acquired", "machines and protocols"),
    Asks("14", "Reference standard", "How the truth was defined", "labels", "how it was established"),
    Asks("15", "Reference standard", "Why this reference standard", "", "why, and its known errors"),
    Asks("16", "Reference standard", "Who annotated", "corrections", "who the readers were, and their training"),
    Asks("17", "Reference standard", "How the test side was annotated", "", "whether otherwise than the rest"),
    Asks("18", "Reference standard", "Variability within and between readers", "", "agreement of the readers"),
    Asks("19", "Partitions", "How cases came to their side", "partition"),
    Asks("20", "Partitions", "At which level the sides are disjoint", "disjoint"),
    Asks("21", "Testing data", "Intended sample size, and why", "size", "how the size was planned"),
    Asks("22", "Model", "The model in full", "model"),
    Asks("23", "Model", "Software and versions", "software"),
    Asks("24", "Model", "What the weights were at the start", "beginning"),
    Asks("25", "Training", "How it was trained, augmentation, hyperparameters", "training"),
    Asks("26", "Training", "How the final model was chosen", "selection"),
    Asks("27", "Training", "Ensembles", "ensemble"),
    Asks("28", "Evaluation", "Figures of performance", "metrics"),
    Asks("29", "Evaluation", "Measures of uncertainty and significance", "uncertainty"),
    Asks("30", "Evaluation", "Robustness and sensitivity", "robust", "other scanners, sites and groups"),
    Asks("31", "Evaluation", "Explanations, and whether they were checked", "explained"),
    Asks("32", "Evaluation", "Evaluation on internal data", "internal"),
    Asks("33", "Evaluation", "Testing on external data", "external", "scans of another institution, or why none"),
    Asks("34", "Evaluation", "Trial registration", "", "number and registry, or that there is none"),
    Asks("35", "Results: data", "Numbers taken in and left out, as a diagram", "flow"),
    Asks("36", "Results: data", "Who the patients are, on each side", "sides", "age, sex and clinical characteristics"),
    Asks("37", "Results", "Performance with its uncertainty", "results"),
    Asks("38", "Results", "Diagnostic performance and its precision", "diagnostic"),
    Asks("39", "Results", "Analysis of failures", "failures", "why it fails there"),
    Asks("40", "Discussion", "Limitations", "limits", "those of the study"),
    Asks("41", "Discussion", "What it means for practice", "", "intended use and role"),
    Asks("42", "Other", "Where the full protocol is", "pack", "the protocol of the study"),
    Asks("43", "Other", "Availability of software, model and data", "available", "licence and terms"),
    Asks("44", "Other", "Funding and the role of funders", "", "who paid"),
)
"""The items of CLAIM 2024."""

TRIPOD = (
    Asks(
        "1",
        "Title",
        "A study that develops or evaluates a prediction model; population and outcome",
        "kind",
        "the title",
    ),
    Asks("2", "Abstract", "As TRIPOD+AI for Abstracts", "", "the abstract"),
    Asks("3a", "Background", "Healthcare context, rationale, existing models", "", "the context"),
    Asks("3b", "Background", "Target population, purpose, users", "", "for whom and where in the care pathway"),
    Asks("3c", "Background", "Known health inequalities", "", "what is known of them"),
    Asks("4", "Objectives", "Development, evaluation or both", "goal"),
    Asks("5a", "Data", "Sources, and how representative they are", "source", "why these data, and whom they stand for"),
    Asks("5b", "Data", "Dates", "", "first and last date (dates are never stored here)"),
    Asks("6a", "Participants", "Setting, number and place of centres", "", "the centres"),
    Asks("6b", "Participants", "Eligibility", "flow", "clinical criteria"),
    Asks("6c", "Participants", "Treatments received", "", "treatments, where they matter"),
    Asks("7", "Preparation", "Preprocessing and quality checks", "preparation"),
    Asks("8a", "Outcome", "What is predicted, and how it was assessed", "labels", "how and when it was assessed"),
    Asks("8b", "Outcome", "Who assessed it", "corrections", "qualification of the assessors"),
    Asks("8c", "Outcome", "Blinding of the assessment", "", "whether they knew anything else"),
    Asks("9a", "Predictors", "Choice of predictors", "predictors"),
    Asks("9b", "Predictors", "How they were measured", "acquired", "machines and protocols"),
    Asks("9c", "Predictors", "Who assessed them, where subjective", "predictors"),
    Asks("10", "Sample size", "How it was arrived at", "size", "how it was planned"),
    Asks("11", "Missing data", "How they were handled", "missing"),
    Asks("12a", "Analysis", "How data were used and parted", "partition"),
    Asks("12b", "Analysis", "How predictors were handled", "preparation"),
    Asks("12c", "Analysis", "Type of model, steps, tuning, internal validation", "training"),
    Asks("12d", "Analysis", "Differences between clusters (sites, countries)", "", "sites, where there are several"),
    Asks("12e", "Analysis", "Measures and plots of performance", "metrics"),
    Asks("12f", "Analysis", "Updating of the model", "updating"),
    Asks("12g", "Analysis", "How predictions were computed", "predictions"),
    Asks("13", "Class imbalance", "Whether and how it was handled", "imbalance"),
    Asks("14", "Fairness", "What was done for fairness", "", "groups looked at, and why"),
    Asks("15", "Model output", "What it gives, and how thresholds were chosen", "output"),
    Asks("16", "Training and evaluation", "Differences between the two", "differences"),
    Asks("17", "Ethics", "Approval and consent", "", "committee, number, consent or waiver"),
    Asks("18a", "Open science", "Funding", "", "who paid"),
    Asks("18b", "Open science", "Conflicts of interest", "", "conflicts"),
    Asks("18c", "Open science", "Protocol", "pack", "the study's protocol"),
    Asks("18d", "Open science", "Registration", "", "number, or that there is none"),
    Asks("18e", "Open science", "Sharing of data", "", "whether and how"),
    Asks("18f", "Open science", "Sharing of code", "available", "where"),
    Asks("19", "Patients and public", "Their involvement", "", "whether they were involved"),
    Asks("20a", "Results", "Flow of participants", "flow"),
    Asks("20b", "Results", "Characteristics of participants", "sides", "age, sex and clinical characteristics"),
    Asks("20c", "Results", "Development beside evaluation data", "sides"),
    Asks("21", "Results", "Participants and events in each analysis", "sides"),
    Asks("22", "Results", "The model in full, so that it can be used", "model"),
    Asks(
        "23a", "Results", "Performance with intervals, also in subgroups", "results", "subgroups by age, sex and site"
    ),
    Asks("23b", "Results", "Differences between clusters", "", "sites, where there are several"),
    Asks("24", "Results", "Results of updating", "updating"),
    Asks("25", "Discussion", "Interpretation", "", "what the results mean"),
    Asks("26", "Discussion", "Limitations", "limits", "those of the study"),
    Asks("27a", "Usability", "Input that is poor or missing", "poor"),
    Asks("27b", "Usability", "What users must do and know", "users", "how it is meant to be used"),
    Asks("27c", "Usability", "Next steps", "", "what has to be studied next"),
)
"""The items of TRIPOD+AI."""


def filled(found: Facts) -> dict[str, list[Filled]]:
    """{name of the checklist: its items with answers}."""
    answers = words.known(found)
    return {"CLAIM 2024": [_fill(a, answers) for a in CLAIM], "TRIPOD+AI": [_fill(a, answers) for a in TRIPOD]}


def open_items(items: list[Filled]) -> list[Filled]:
    """Those that a person has to answer, in whole or in part."""
    return [item for item in items if item.state != "answered"]


def rows(lists: dict[str, list[Filled]]) -> list[list[Any]]:
    """As a table with a head: for a spreadsheet."""
    head: list[list[Any]] = [["checklist", "item", "section", "asked", "state", "answer", "for a person to add"]]
    return head + [
        [name, item.number, item.section, item.text, item.state, item.answer, item.rest]
        for name, items in lists.items()
        for item in items
    ]


def _fill(asked: Asks, answers: dict[str, str]) -> Filled:
    answer = answers.get(asked.known, "") if asked.known else ""
    state = "open" if not answer else "partly" if asked.rest else "answered"
    return Filled(asked.number, asked.section, asked.text, state, answer, asked.rest or ("" if answer else asked.text))
