"""Prints the reference of everything that can be chosen: `python -m builder.parts > docs/catalog.md`."""

from collections.abc import Mapping

from builder.catalog import LAYOUTS, Digest, Domain, Flag, LayerSpec, OneOf, Part, Text
from builder.parts.images import AUGMENTATIONS, DEGRADATIONS, PREPARE
from builder.parts.layers import LAYERS
from builder.parts.search import COSTS, PRUNERS, SEARCH, STRATEGIES
from builder.parts.training import AVERAGES, GROUP, LOSSES, OPTIMIZERS, SCHEDULES, TRAINING


def reference() -> str:
    """Returns the whole reference as Markdown, made from the catalogs alone."""
    said = [
        "# Everything you can choose",
        "Made from the catalogs by `python -m builder.parts > docs/catalog.md`; do not edit it by hand.",
    ]
    catalogs: list[tuple[str, Mapping[str, Part]]] = [
        ("Layers", LAYERS),
        ("Optimizers", OPTIMIZERS),
        ("Schedules", SCHEDULES),
        ("Averages of the weights", AVERAGES),
        ("Losses", LOSSES),
        ("Augmentations", AUGMENTATIONS),
        ("Degradations", DEGRADATIONS),
        ("Strategies of a search", STRATEGIES),
        ("Pruners of a search", PRUNERS),
        ("Costs that a search may limit or look for", COSTS),
    ]
    for title, catalog in catalogs:
        said.append(f"## {title}")
        said += [_part(part, "###") for part in catalog.values()]
    said += [_part(PREPARE, "##"), _part(TRAINING, "##"), _part(GROUP, "##"), _part(SEARCH, "##")]
    return "\n\n".join(said) + "\n"


def _part(part: Part, heading: str) -> str:
    facts = [f"`{part.name}`"]
    if part.target:
        facts.append(f"builds `{part.target}`")
    if isinstance(part, LayerSpec):
        kinds = " or ".join(LAYOUTS[k] for k in part.takes) or "anything"
        several = "two or more of " if part.inputs > 1 else f"up to {part.most} of " if part.most > 1 else ""
        facts.append(f"takes {several}{kinds}")
    lines = [f"{heading} {part.title}", f"{' · '.join(facts)}", part.help]
    if part.params:
        rows = [f"| `{p.name}` | {p.default} | {_allowed(p)} | {p.help} |" for p in part.params]
        lines.append("\n".join(["| setting | default | allowed | meaning |", "|---|---|---|---|", *rows]))
    return "\n\n".join(lines)


def _allowed(domain: Domain) -> str:
    if isinstance(domain, OneOf):
        return ", ".join(domain.options)
    if isinstance(domain, Flag):
        return "yes, no"
    if isinstance(domain, Text):
        return f"any name of `{domain.known}`" if domain.known else "text"
    if isinstance(domain, Digest):
        return "a SHA-256, or nothing"
    unit = f" {domain.unit}" if domain.unit else ""
    return f"{domain.low:g} to {domain.high:g}{unit}{' (log scale)' if domain.log else ''}"


if __name__ == "__main__":
    print(reference(), end="")
