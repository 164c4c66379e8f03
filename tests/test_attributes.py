"""What an import keeps of people, machines and sites, and what is told by it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_files import dicom, imported, picture
from test_subgroups import case, examined, held, judged

from builder import attributes
from builder.__main__ import main
from builder.audit import audit
from builder.data import Case, Dataset
from builder.gathering import SourceRefused
from builder.sources import Source
from builder.subgroups import subgroups, verdicts
from builder.told_later import tell


def told(dataset: Dataset) -> list[dict[str, str]]:
    return [dict(case.attributes) for case in dataset.cases]


def on_disk(folder: Path) -> bytes:
    return b"".join(path.read_bytes() for path in folder.rglob("*") if path.is_file())


# -- what words become ------------------------------------------------------------------------------------------------


def test_ages_are_told_in_bands_whatever_unit_they_came_in():
    bands = [attributes.band_of_age(years) for years in (0, 17.9, 18, 39, 40, 59, 60, 74, 75, 130, 131, -1, None)]
    assert bands == ["0-17"] * 2 + ["18-39"] * 2 + ["40-59"] * 2 + ["60-74"] * 2 + ["75+"] * 2 + ["", "", ""]
    assert [attributes.age_in_years(text) for text in ("063Y", "006M", "63", "Y", "")] == [63.0, 0.5, None, None, None]
    assert attributes.age_between("19600615", "20200614") == 59 and attributes.age_between("19600615", "20200615") == 60
    assert attributes.age_between("20200101", "19990101") is None and attributes.age_between("", "20200101") is None


def test_makers_are_told_by_a_list_and_what_looks_like_no_model_is_left_out():
    assert attributes.scanner("SIEMENS", "Skyra") == "Siemens Skyra"
    assert attributes.scanner("Siemens Healthineers", "MAGNETOM_Vida") == "Siemens MAGNETOM Vida"
    assert attributes.scanner("GE MEDICAL SYSTEMS", "DISCOVERY MR750") == "GE DISCOVERY MR750"
    assert attributes.scanner("Philips Medical Systems", "the scanner of Mrs Smith, second floor") == "Philips"
    assert attributes.scanner("Philips Ingenia 3.0T") == "Philips Ingenia 3.0T"
    assert attributes.scanner("ZZPHI Hospital", "Skyra") == "", "to be numbered"


def test_bands_of_field_and_voltage_have_an_order():
    fields = [attributes.band_of_field(tesla) for tesla in (0.35, 1.0, 1.494, 3.0, 7.0, None)]
    assert fields == ["under 1 T", "1 T", "1.5 T", "3 T", "over 4 T", ""]
    volts = [attributes.band_of_voltage(kilovolt) for kilovolt in (28, 80, 100, 120, 140)]
    assert volts == ["up to 50 kV", "51 to 90 kV", "91 to 110 kV", "111 to 130 kV", "over 130 kV"]
    for known in (fields[:-1], volts, ["0-17", "18-39", "75+", "other", "not told"], ["site 2", "site 10"]):
        assert sorted(reversed(known), key=attributes.in_order) == known


def test_groups_of_fewer_than_five_patients_are_told_as_one():
    values = ["a"] * 6 + ["b"] * 9 + ["c"] * 2 + [""]
    patients = [*range(6), *[20] * 9, 30, 31, 40]
    assert attributes.folded(values, patients) == ["a"] * 6 + ["other"] * 11 + ["not told"]
    rows = [{"sex": value} if value else {} for value in values]
    assert attributes.counts(rows, patients) == {"sex": {"a": 6, "other": 3, "not told": 1}}
    assert attributes.counts([{}, {}], [1, 2]) == {}


# -- what an import keeps ---------------------------------------------------------------------------------------------


def series(folder: Path, number: int, **tags: object) -> None:
    """A CT image of a patient of its own."""
    plain = {"PatientID": f"p{number}", "StudyInstanceUID": f"1.2.{number}"}
    dicom(folder / f"{number}.dcm", number, **{**plain, **tags})


def test_dicom_tells_sex_band_of_age_scanner_voltage_and_a_number_for_the_site(tmp_path, home):
    here = {
        "Manufacturer": "SIEMENS",
        "ManufacturerModelName": "Somatom",
        "KVP": 120,
        "InstitutionName": "Zoo Hospital",
    }
    series(tmp_path / "a", 0, PatientSex="F", PatientAge="063Y", **here)
    series(tmp_path / "a", 1, PatientSex="M", PatientBirthDate="19800101", StudyDate="20200101", StationName="ZOO1")
    series(
        tmp_path / "a", 2, PatientSex="", PatientAge="", InstitutionName="ZOO  hospital", Manufacturer="Garage & Sons"
    )
    _, dataset = imported(tmp_path / "a", home)
    whole = {
        "sex": "female",
        "age": "60-74",
        "scanner": "Siemens Somatom",
        "voltage": "111 to 130 kV",
        "site": "site 1",
    }
    assert told(dataset) == [
        whole,
        {"sex": "male", "age": "40-59", "site": "site 2"},
        {"site": "site 1", "scanner": "scanner 1"},
    ]
    assert dataset.fingerprint.attributes["sex"] == {"other": 2, "not told": 1}
    series(tmp_path / "b", 3, InstitutionName="zoo hospital")
    series(tmp_path / "b", 4, InstitutionName="Elsewhere")
    _, grown = imported(tmp_path / "b", home, into=dataset.id)
    assert [row["site"] for row in told(grown)] == ["site 1", "site 2", "site 1", "site 1", "site 3"]
    kept = on_disk(home).lower()
    assert not [name for name in (b"zoo", b"elsewhere", b"garage", b"19800101", b"063y") if name in kept]


def test_odd_words_in_describing_elements_refuse_no_scan(tmp_path, home):
    series(tmp_path / "in", 0, PatientSex="Q", PatientBirthDate="", StudyDate="20200101", KVP=0, Manufacturer="")
    report, dataset = imported(tmp_path / "in", home)
    assert report.refused == 0 and told(dataset) == [{}]
    assert b'"attributes"' not in (dataset.folder / "cases.jsonl").read_bytes(), "as a data set of an earlier version"
    assert Case.from_json((dataset.folder / "cases.jsonl").read_text()).attributes == {}


def test_a_table_tells_what_its_columns_name_and_says_what_it_could_not_read(tmp_path, home):
    rows = [
        "file,label,patient,Sex,Age,Scanner,Hospital,group_density",
        "0.png,ill,p0,F,63,GE Signa,Zoo Hospital,dense",
        "1.png,well,p1,male,18-39,Garage,Elsewhere,fatty",
        "2.png,well,p2,2,old,,,",
    ]
    for n in range(3):
        picture(tmp_path / "in" / f"{n}.png", n)
    (tmp_path / "in" / "labels.csv").write_text("\n".join(rows))
    _, dataset = imported(Source("csv", tmp_path / "in"), home)
    ages = [row.get("age") for row in told(dataset)]
    assert ages == ["60-74", "18-39", None] and told(dataset)[2] == {}
    assert told(dataset)[0] == {
        "sex": "female",
        "age": "60-74",
        "scanner": "GE Signa",
        "site": "site 1",
        "group density": "dense",
    }
    said = " ".join(dataset.fingerprint.warnings)
    assert "The sex of 1 row could not be read" in said and "expected F, M or O" in said
    assert "The age of 1 row could not be read" in said
    assert b"Zoo" not in on_disk(home) and b"Garage" not in on_disk(home)


def test_scans_that_are_there_are_told_of_later_by_their_files_or_by_a_table_of_patients(tmp_path, home, capsys):
    lines = ["file,label,patient", *(f"{n}.png,{'ab'[n % 2]},p{n // 2}" for n in range(6))]
    for n in range(6):
        picture(tmp_path / "in" / f"{n}.png", n)
    (tmp_path / "in" / "labels.csv").write_text("\n".join(lines))
    _, dataset = imported(Source("csv", tmp_path / "in"), home)
    assert told(dataset) == [{}] * 6
    lines = ["file,label,patient,sex,site", *(f"{n}.png,{'ab'[n % 2]},p{n // 2},F,Zoo" for n in range(2))]
    (tmp_path / "in" / "labels.csv").write_text("\n".join(lines))
    for n in range(2, 6):
        (tmp_path / "in" / f"{n}.png").unlink()
    report, dataset = imported(Source("csv", tmp_path / "in"), home, into=dataset.id)
    assert (report.cases, report.labelled) == (0, 2)
    reasons = {entry.reason for entry in report.ledger if entry.case}
    assert reasons == {"This scan is already in the dataset; it got the sex and site told here."}
    table = tmp_path / "people.csv"
    table.write_text("Patient,Age,Hospital,Sex\np0,63,Zoo,F\np1,17,Elsewhere,F\np9,50,Nowhere,F\n")
    assert main(["tell", dataset.id, str(table), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["rows"], answer["found"], answer["scans"]) == (3, 2, 4)
    assert answer["told"] == {"sex": 2, "age": 4, "site": 2}
    now = Dataset.open(home, dataset.id)
    assert told(now)[0] == {"sex": "female", "site": "site 1", "age": "60-74"}
    assert told(now)[2] == {"sex": "female", "age": "0-17", "site": "site 2"} and told(now)[4] == {}
    assert now.fingerprint.attributes["sex"] == {"other": 2, "not told": 1} and now.classes == ("a", "b")
    assert [case.label for case in now.cases] == [0, 1] * 3 and now.numbered["site"].__len__() == 2
    kept = on_disk(home)
    assert b"Zoo" not in kept and b"Elsewhere" not in kept and b"Nowhere" not in kept
    table.write_text("file,sex\n0.png,F\n")
    assert main(["tell", dataset.id, str(table)]) == 2
    assert "a column that names patients" in capsys.readouterr().err


def test_what_a_file_said_at_its_import_does_not_overrule_what_was_told_since(tmp_path, home):
    for n in range(3):
        dicom(tmp_path / "in" / f"{n}.dcm", n, PatientSex="M", PatientID=f"p{n}")
    _, dataset = imported(tmp_path / "in", home)
    (tmp_path / "people.csv").write_text("patient,sex\np0,F\n")
    tell(home, dataset, tmp_path / "people.csv")
    dicom(tmp_path / "in" / "3.dcm", 3, PatientSex="M", PatientID="p3")
    report, dataset = imported(tmp_path / "in", home, into=dataset.id)
    assert (report.cases, report.labelled) == (1, 0)
    assert [row["sex"] for row in told(dataset)] == ["female", "male", "male", "male"]


def test_a_group_of_ones_own_with_a_value_for_everybody_is_refused(tmp_path, home):
    for n in range(14):
        picture(tmp_path / "in" / f"{n}.png", n)
    lines = ["file,label,group_name", *(f"{n}.png,{'ab'[n % 2]},person {n}" for n in range(14))]
    (tmp_path / "in" / "labels.csv").write_text("\n".join(lines))
    with pytest.raises(SourceRefused, match="'Name' has more than 12 values: no groups"):
        imported(Source("csv", tmp_path / "in"), home)


def test_folders_that_call_themselves_sources_stand_above_the_classes(tmp_path, home):
    for n, (source, label) in enumerate([("site A", "ill"), ("site A", "well"), ("site B", "ill"), ("site B", "well")]):
        picture(tmp_path / "in" / source / label / f"{n}.png", n)
    _, dataset = imported(Source("classes", tmp_path / "in"), home)
    assert dataset.classes == ("ill", "well")
    assert [row["source"] for row in told(dataset)] == ["source 1", "source 1", "source 2", "source 2"]
    for n, (view, label) in enumerate([("left", "ill"), ("left", "well"), ("right", "ill"), ("right", "well")]):
        picture(tmp_path / "other" / label / view / f"{n}.png", n + 10)
    _, plain = imported(Source("classes", tmp_path / "other"), home, name="other")
    assert plain.classes == ("ill", "well") and told(plain) == [{}] * 4


# -- what is told by it -----------------------------------------------------------------------------------------------


def of(number: int, **said: str) -> Case:
    return replace(case(number), attributes=said)


def test_a_group_on_which_a_run_fails_is_named_with_its_difference_to_the_rest():
    labels = np.arange(120) % 2
    answers = examined(120, labels)
    answers["patients"] = np.arange(120)
    random = np.random.default_rng(1)
    answers["probabilities"][:40] = random.dirichlet([1, 1], 40)  # of the women it knows nothing
    cases = [of(n, sex="female" if n < 40 else "male" if n < 117 else "other") for n in range(120)]
    rows = {row["name"]: row for row in subgroups(held(*cases), judged(answers), 200) if row["about"] == "Sex"}
    assert list(rows) == ["female", "male", "other"]
    assert rows["other"] == {"about": "Sex", "name": "other", "n": 3, "patients": 3, "few": True}
    apart = rows["female"]["rest"]["auc"]
    assert apart["high"] < 0 < rows["male"]["rest"]["auc"]["low"] and rows["female"]["auc"]["value"] < 0.7
    first, last = verdicts(list(rows.values()))
    assert (
        first.startswith("Sex, female: an AUC of 0.") and "lower than on the rest" in first and "40 patients" in first
    )
    assert last.startswith("2 groups were compared")


def test_equal_groups_are_not_accused():
    labels = np.arange(80) % 2
    cases = [of(n, site=f"site {1 + (n // 2) % 2}") for n in range(80)]
    rows = subgroups(held(*cases), judged(examined(80, labels)), 200)
    assert verdicts(rows) == ["In none of 2 groups compared is the AUC lower than on the rest by more than chance."]
    assert verdicts([]) == []


def test_the_audit_names_a_site_that_gives_the_class_away_and_not_the_innocent_sex(tmp_path, home):
    rows = ["file,label,patient,sex,site"]
    for n in range(60):
        picture(tmp_path / "in" / f"{n}.png", n, (40, 40))
        rows.append(f"{n}.png,{'ill' if n % 2 else 'well'},p{n},{'FM'[(n // 2) % 2]},{'Zoo' if n % 2 else 'Farm'}")
    (tmp_path / "in" / "labels.csv").write_text("\n".join(rows))
    _, dataset = imported(Source("csv", tmp_path / "in"), home)
    found = audit(dataset, look=False)
    assert found["traces"]["site"]["tells"] == "nearly all" and found["traces"]["sex"]["tells"] == "nothing"
    words = [verdict["words"] for verdict in found["verdicts"] if verdict["about"] == "trace"]
    assert any(said.startswith("The site alone tells the classes apart with an AUC of 1.00") for said in words)
    assert any(said.startswith("Alone, these do not tell the classes apart: sex (AUC 0.") for said in words)
    assert json.loads((dataset.folder / "dataset.json").read_text())["numbered"].keys() == {"site"}
