"""README and documentation: their links lead somewhere, and their tables list what the code has."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from napari_histoad.detectors import KNOWN_ENCODERS, describe_detectors
from napari_histoad.results import exports

ROOT = Path(__file__).parents[1]
REPOSITORY = "https://github.com/napari-histoad/napari-histoad"
RAW = "https://raw.githubusercontent.com/napari-histoad/napari-histoad/main/"
PAGES = sorted(path for pattern in ("*.md", "docs/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern))


def _prose(page: Path) -> str:
    return re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)


def _links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", _prose(page))


def _anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ +(.*)$", _prose(page), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().casefold()).replace(" ", "-") for heading in headings}


def _name(command) -> str:
    return command.name or command.callback.__name__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_lead_to_files_and_headings_of_the_repository(page):
    for link in _links(page):
        address, _, anchor = link.partition("#")
        for start in (f"{REPOSITORY}/blob/main/", f"{REPOSITORY}/tree/main/", RAW):
            if address.startswith(start):
                target = ROOT / address.removeprefix(start)
                break
        else:
            if "://" in address:
                continue
            target = (page.parent / address).resolve() if address else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in _anchors(target), f"{page.name}: {link}"


def test_readme_is_short_and_its_links_work_outside_the_repository():
    readme = ROOT / "README.md"
    assert len(_prose(readme).split()) <= 900
    assert all(link.startswith("https://") for link in _links(readme))
    assert "not a diagnosis" in _prose(readme)


def test_index_lists_every_page():
    linked = set(_links(ROOT / "docs" / "README.md"))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


def test_contributing_names_every_room():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    source = ROOT / "src" / "napari_histoad"
    rooms = [f"{path.relative_to(source).as_posix()}/" for path in source.rglob("*") if list(path.glob("*.py"))]
    rooms += [path.name for path in source.glob("[a-z]*.py")]
    assert [room for room in rooms if f"`{room}`" not in text and f"`{room.replace('.py', '/')}`" not in text] == []


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([\w/]+\.(?:py|yaml|cff|md))`", text))
    places = (ROOT, ROOT / "src" / "napari_histoad")
    assert len(named) > 10
    assert {name for name in named if "NAME" not in name and not any((place / name).exists() for place in places)} == set()


def test_terminal_page_names_every_command():
    from napari_histoad.cli._app import app

    text = (ROOT / "docs" / "terminal.md").read_text(encoding="utf-8")
    commands = [_name(command) for command in app.registered_commands]
    for group in app.registered_groups:
        commands += [f"{group.name} {_name(command)}" for command in group.typer_instance.registered_commands]
    assert [name for name in commands if f"`{name}`" not in text] == []


def test_results_name_scripts_that_exist():
    scripts = set(re.findall(r"`(\w+\.py)", (ROOT / "benchmarks" / "RESULTS.md").read_text(encoding="utf-8")))
    assert scripts
    assert {name for name in scripts if not (ROOT / "benchmarks" / name).exists()} == set()


def _table(page: str, first: str) -> dict[str, list[str]]:
    """Return the rows of the table with this heading in the first column: the other cells by the first one."""
    lines = (ROOT / "docs" / page).read_text(encoding="utf-8").splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith(f"| {first} |"))
    rows = itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :])
    cells = [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]
    return {first.strip("`"): others for first, *others in cells}


def test_detectors_page_lists_every_detector_with_what_it_can_do():
    listed = {name: cells[:4] for name, cells in _table("detectors.md", "name").items()}
    expected = {}
    for d in describe_detectors():
        training = "gradient descent" if d.learns_by_steps else "statistics"
        flags = ["yes" if flag else "no" for flag in (d.uses_encoder, d.exports_onnx)]
        expected[d.name] = [f"**{d.title}.** {d.summary}", training, *flags]
    assert listed == expected


def test_encoders_page_lists_every_pathology_encoder():
    features = {"class": "class token", "class+mean": "class token and mean of the patch tokens"}
    expected = {
        known.repository: [
            known.licence,
            "on request" if known.gated else "free",
            f"{known.side} px, {known.mpp} µm/px",
            features[known.pooling],
        ]
        for known in KNOWN_ENCODERS
        if known.mpp is not None
    }
    assert _table("encoders.md", "on the hub") == expected


def test_maps_page_lists_every_export():
    expected = {}
    for export in exports():
        files = [f"`<slide>.{ending}`" for ending in (export.ending, *export.side_endings)]
        expected[f"--{export.name}"] = [
            ", ".join(files),
            export.title + "." + (" Needs the slide." if export.needs_slide else ""),
        ]
    assert _table("maps.md", "option") == expected
