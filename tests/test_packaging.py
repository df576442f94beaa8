"""What a stranger finds beside the code agrees: licence, notice, citation, metadata and the package itself."""

import configparser
from pathlib import Path

import yaml

import s3prl_pruned

ROOT = Path(__file__).parents[1]


def metadata():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser["metadata"]


def test_the_licence_is_apache_2_and_said_alike_everywhere():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Version 2.0, January 2004" in text and "END OF TERMS AND CONDITIONS" in text
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert metadata()["license"] == citation["license"] == "Apache-2.0"
    assert "Apache License, Version 2.0" in (ROOT / "NOTICE").read_text(encoding="utf-8")


def test_the_notice_keeps_every_embedded_things_own_licence_apart_and_ships():
    notice, shipped = (ROOT / "NOTICE").read_text(encoding="utf-8"), metadata()["license_files"].split()
    for folder in (ROOT / "s3prl_pruned" / "embedded").iterdir():
        name = folder.relative_to(ROOT).as_posix()
        named = [word.rstrip(",.") for word in notice.split() if word.startswith(f"{name}/")]
        terms = [word for word in named if word.endswith(".md")]
        assert len(terms) == 1 and (ROOT / terms[0]).is_file(), f"NOTICE names no file with the licence of {name}"
    assert {"LICENSE", "NOTICE"} < set(shipped) and all((ROOT / name).is_file() for name in shipped)


def test_the_citation_is_of_this_version_and_of_the_paper():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == s3prl_pruned.__version__
    paper = citation["preferred-citation"]
    assert (
        paper["title"] == "Task-Agnostic Structured Pruning of Speech Representation Models" and paper["year"] == 2023
    )
