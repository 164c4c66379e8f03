"""CLAIM 2024 and TRIPOD+AI, filled in as far as a run can know, with what only people can answer left open and listed.

Items and their numbers: Tejani et al., Checklist for Artificial Intelligence in Medical Imaging (CLAIM): 2024 Update,
Radiology: Artificial Intelligence 6(4):e240300, doi:10.1148/ryai.240300, PMC11304031 (44 items); Collins et al.,
TRIPOD+AI statement, BMJ 385:e078378, doi:10.1136/bmj-2023-078378 (27 items with 52 parts; checklist of 11 January 2024,
tripod-statement.org). They are worded here in short and in our own words: the publications count.

Checked on 26 November 2026, item by item: TRIPOD+AI against the full text of its checklist (CC BY 4.0) as several
public repositories have it; CLAIM only against a public summary of all 44, whose own words about how it was checked
differ between its versions. The page of RSNA itself could not be opened from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from builder.evidence import words
from builder.evidence.facts import Facts

_SHORT = "Worded in short and in our own words: the publication counts."
SOURCES = {
    "CLAIM 2024": f"Tejani et al., Radiology: Artificial Intelligence 6(4):e240300, doi:10.1148/ryai.240300. {_SHORT}",
    "TRIPOD+AI": "Collins et al., BMJ 385:e078378, doi:10.1136/bmj-2023-078378, checklist of 11 January 2024. "
    f"{_SHORT}",
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
        "3",
        "Introduction",
        "Scientific and clinical background, intended use and role of the model",
        "",
        "what it is meant for, and for whom",
    ),
    Asks("4", "Introduction", "Aims, objectives and hypotheses", "", "the aim and what was expected beforehand"),
    Asks("5", "Study design", "Prospective or retrospective", "", "when and for what the scans were collected"),
    Asks("6", "Study design", "Goal of the study", "goal", "why it was undertaken"),
    Asks(
        "7", "Data", "Sources of the data, with links where they are public", "source", "institutions, dates, and links"
    ),
    Asks("8", "Data", "Who and what was taken in and left out", "flow", "clinical criteria of inclusion"),
    Asks("9", "Data", "Preprocessing", "preparation"),
    Asks("10", "Data", "Selection of subsets of the data", "subsets"),
    Asks("11", "Data", "De-identification", "privacy", "what was done before the scans came here"),
    Asks("12", "Data", "How missing data were handled", "missing"),
    Asks("13", "Data", "How the scans were acquired", "acquired", "machines and protocols"),
    Asks("14", "Reference standard", "How the truth was defined", "labels", "how it was established"),
    Asks("15", "Reference standard", "Why this reference standard", "", "why, and its known errors"),
    Asks(
        "16",
        "Reference standard",
        "Where annotations came from, who annotated",
        "corrections",
        "who the readers were, and their training",
    ),
    Asks(
        "17",
        "Reference standard",
        "How the test side was annotated",
        "",
        "procedure and tools there, and whether otherwise than the rest",
    ),
    Asks("18", "Reference standard", "Variability within and between readers", "", "agreement of the readers"),
    Asks(
        "19", "Partitions", "How cases came to their side, in which proportions", "proportions", "why these proportions"
    ),
    Asks("20", "Partitions", "At which level the sides are disjoint", "disjoint"),
    Asks("21", "Testing data", "Intended sample size, and why", "size", "how the size was planned"),
    Asks("22", "Model", "The model in full", "model"),
    Asks("23", "Model", "Software and versions", "software"),
    Asks("24", "Model", "What the weights were at the start", "beginning"),
    Asks("25", "Training", "How it was trained, augmentation, hyperparameters", "training"),
    Asks("26", "Training", "How the final model was chosen", "selection"),
    Asks("27", "Training", "Ensembles", "ensemble"),
    Asks("28", "Evaluation", "Figures of performance", "metrics"),
    Asks("29", "Evaluation", "Measures of uncertainty, and significance", "uncertainty"),
    Asks("30", "Evaluation", "Robustness and sensitivity", "robust", "other scanners, sites and groups"),
    Asks("31", "Evaluation", "Explanations, and whether they were checked", "explained"),
    Asks("32", "Evaluation", "Evaluation on internal data", "internal"),
    Asks("33", "Evaluation", "Testing on external data", "external", "scans of another institution, or why none"),
    Asks(
        "34", "Evaluation", "Registration, if it is a clinical trial", "", "number and registry, or that there is none"
    ),
    Asks("35", "Results: data", "Numbers taken in and left out, as a diagram", "flow"),
    Asks(
        "36",
        "Results: data",
        "Demographic and clinical characteristics of each side",
        "sides",
        "age, sex and clinical characteristics",
    ),
    Asks("37", "Results", "Performance against the reference standard, its uncertainty, subgroups", "performance"),
    Asks("38", "Results", "Estimates of diagnostic performance and their precision", "diagnostic"),
    Asks("39", "Results", "Analysis of failures", "failures", "why it fails there"),
    Asks("40", "Discussion", "Limitations", "limits", "those of the study"),
    Asks("41", "Discussion", "Implications for practice, intended use, role", "", "intended use and role"),
    Asks(
        "42", "Other", "Where the full protocol or further technical details are", "pack", "the protocol of the study"
    ),
    Asks("43", "Other", "Availability of software, model and data", "available", "licence and terms"),
    Asks("44", "Other", "Funding and the role of funders", "", "who paid"),
)
"""The items of CLAIM 2024."""

TRIPOD = (
    Asks(
        "1",
        "Title",
        "Develops or evaluates the performance of a prediction model; target population; outcome",
        "kind",
        "the title",
    ),
    Asks("2", "Abstract", "As TRIPOD+AI for Abstracts", "", "the abstract"),
    Asks(
        "3a", "Background", "Healthcare context (diagnosis or prognosis), rationale, existing models", "", "the context"
    ),
    Asks("3b", "Background", "Target population, purpose, users", "", "for whom and where in the care pathway"),
    Asks("3c", "Background", "Known health inequalities between groups of people", "", "what is known of them"),
    Asks("4", "Objectives", "Development, evaluation or both", "goal"),
    Asks(
        "5a",
        "Data",
        "Sources for development and evaluation, why these, how representative",
        "source",
        "why these data, and whom they stand for",
    ),
    Asks(
        "5b",
        "Data",
        "Dates of the data, of accrual and follow-up",
        "",
        "first and last date (dates are never stored here)",
    ),
    Asks("6a", "Participants", "Setting, number and place of centres", "", "the centres"),
    Asks("6b", "Participants", "Eligibility", "flow", "clinical criteria"),
    Asks("6c", "Participants", "Treatments received and how they were handled", "", "treatments, where they matter"),
    Asks(
        "7",
        "Data preparation",
        "Preprocessing and quality checks, and whether alike for all groups",
        "preparation_alike",
    ),
    Asks(
        "8a",
        "Outcome",
        "Outcome and time horizon, how assessed, why this one, whether alike for all groups",
        "labels",
        "how and when it was assessed",
    ),
    Asks(
        "8b",
        "Outcome",
        "Who assessed it, where that is a matter of judgement",
        "corrections",
        "qualification and demographics of assessors",
    ),
    Asks("8c", "Outcome", "Blinding of its assessment", "", "whether they knew anything else"),
    Asks("9a", "Predictors", "Choice of predictors, selection before the model was built", "predictors"),
    Asks("9b", "Predictors", "What they are, how and when measured, blinding", "acquired", "machines and protocols"),
    Asks("9c", "Predictors", "Who assessed them, where that is a matter of judgement", "predictors"),
    Asks(
        "10",
        "Sample size",
        "How it was arrived at for development and evaluation, and whether it sufficed",
        "size",
        "how it was planned",
    ),
    Asks("11", "Missing data", "How they were handled, why data were omitted", "missing"),
    Asks("12a", "Analytical methods", "How data were used and parted", "proportions"),
    Asks("12b", "Analytical methods", "How predictors were handled: rescaling, standardization", "preparation"),
    Asks("12c", "Analytical methods", "Type of model, why, steps of building, tuning, internal validation", "training"),
    Asks(
        "12d",
        "Analytical methods",
        "Heterogeneity between clusters (hospitals, countries)",
        "",
        "sites, where there are several",
    ),
    Asks("12e", "Analytical methods", "Measures and plots of performance, and why these", "metrics"),
    Asks("12f", "Analytical methods", "Updating of the model", "updating"),
    Asks("12g", "Analytical methods", "How predictions were computed", "predictions"),
    Asks("13", "Class imbalance", "Whether and how it was handled, and recalibration after it", "imbalance"),
    Asks("14", "Fairness", "What was done for fairness, and why", "groups", "groups of people that matter here"),
    Asks("15", "Model output", "What it gives, and how thresholds were chosen", "output"),
    Asks(
        "16",
        "Training versus evaluation",
        "Differences in setting, eligibility, outcome, predictors",
        "differences",
        "settings",
    ),
    Asks("17", "Ethical approval", "Committee, and consent or its waiver", "", "committee, number, consent or waiver"),
    Asks("18a", "Open science", "Funding and the role of funders", "", "who paid"),
    Asks("18b", "Open science", "Conflicts of interest", "", "conflicts"),
    Asks("18c", "Open science", "Protocol", "pack", "the study's protocol"),
    Asks("18d", "Open science", "Registration", "", "number, or that there is none"),
    Asks("18e", "Open science", "Availability of the data", "", "whether and how"),
    Asks("18f", "Open science", "Availability of the code of the analysis", "available", "where"),
    Asks(
        "19",
        "Patient and public involvement",
        "In design, conduct, reporting, or none",
        "",
        "whether they were involved",
    ),
    Asks("20a", "Participants", "Flow, with and without the outcome, follow-up", "flow"),
    Asks(
        "20b",
        "Participants",
        "Characteristics, dates, events, missing data, differences between groups",
        "sides",
        "age, sex and clinical characteristics",
    ),
    Asks("20c", "Participants", "Evaluation data beside development data", "sides"),
    Asks("21", "Model development", "Participants and events in each analysis", "sides"),
    Asks(
        "22",
        "Model specification",
        "The model in full, so that others can use it; restrictions",
        "model",
        "restrictions of access and reuse",
    ),
    Asks(
        "23a", "Model performance", "Performance with intervals, also in key subgroups", "performance", "further groups"
    ),
    Asks(
        "23b",
        "Model performance",
        "Heterogeneity between clusters, where examined",
        "",
        "sites, where there are several",
    ),
    Asks("24", "Model updating", "Results of updating", "updating"),
    Asks(
        "25", "Interpretation", "Overall, with fairness, against aims and earlier studies", "", "what the results mean"
    ),
    Asks(
        "26", "Limitations", "And their effect on bias, uncertainty, generalisability", "limits", "those of the study"
    ),
    Asks("27a", "Usability", "How input that is poor or missing is assessed and handled", "poor"),
    Asks("27b", "Usability", "What users must do, and what expertise they need", "users", "how it is meant to be used"),
    Asks("27c", "Usability", "Next steps of research, applicability", "", "what has to be studied next"),
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
