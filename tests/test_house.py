"""Which room may import which, what importing the package loads, and what the manifest names."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "napari_histoad"
BASE = {"errors", "jobs", "calibration", "system"}
MAY_IMPORT = {
    "errors": set(),
    "jobs": set(),
    "calibration": {"errors"},
    "system": {"errors"},
    "slide": BASE,
    "regions": BASE | {"slide"},
    "tiles": BASE | {"slide", "regions"},
    "maps": BASE | {"slide", "regions", "tiles"},
    "results": BASE | {"slide", "regions", "tiles", "maps"},
    "samples": BASE | {"slide", "regions", "tiles"},
    "networks": set(),
    "detectors": BASE | {"networks"},
    "classifiers": BASE | {"networks", "detectors"},
    "engine": BASE | {"slide", "regions", "tiles", "maps", "results", "samples", "networks", "detectors", "classifiers"},
    "evaluation": BASE | {"slide", "regions", "tiles", "maps", "results", "detectors", "classifiers", "engine"},
    "worker": BASE
    | {"slide", "regions", "tiles", "maps", "results", "samples", "detectors", "classifiers", "engine", "evaluation"},
    "cli": BASE | {"slide", "regions", "tiles", "maps", "results", "samples", "detectors", "classifiers", "engine", "evaluation"},
    "gui": BASE | {"slide", "regions", "tiles", "maps", "results", "samples", "worker"},
}
WORKER_DOORS = {"napari_histoad.worker", "napari_histoad.worker.client", "napari_histoad.worker.protocol"}
"""What the window may import of the worker: the other modules load torch."""
TORCH_ROOMS = {"networks", "detectors", "classifiers", "engine"}


def _imports(path: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return names


def _files() -> list[Path]:
    return [p for p in SOURCE.rglob("*.py") if p.parent != SOURCE or p.stem in BASE]


def _room(path: Path) -> str:
    return path.relative_to(SOURCE).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", _files(), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_rooms_import_only_what_they_may(path):
    room = _room(path)
    for name in _imports(path):
        parts = name.split(".")
        if parts[0] == "napari_histoad" and len(parts) > 1:
            assert parts[1] == room or parts[1] in MAY_IMPORT[room], f"{room} imports {name}"
            assert room == "worker" or parts[1] != "worker" or name in WORKER_DOORS, f"{room} imports {name}"
        if parts[0] in {"torch", "lightning_fabric", "vector_quantize_pytorch"}:
            assert room in TORCH_ROOMS, f"{room} imports {name}"
        if parts[0] in {"qtpy", "napari", "magicgui", "superqt", "PyQt6"}:
            assert room == "gui", f"{room} imports {name}"


def _module_imports() -> dict[str, set[str]]:
    """Return which modules of the package each one imports, also inside functions; imports for type checkers do not count."""
    files = {
        path.relative_to(SOURCE).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__"): path for path in _files()
    }
    found = {}
    for module, path in files.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = [ast.Pass()]
        names = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{module} has a relative import"
                inside = {f"{node.module}.{alias.name}" for alias in node.names}
                names |= {name if name.removeprefix("napari_histoad.") in files else node.module for name in inside}
        found[module] = {name.removeprefix("napari_histoad.") for name in names} & set(files) - {module}
    return found


def _rings(imports: dict[str, set[str]]) -> set[frozenset[str]]:
    """Return the sets of modules that import each other, directly or through others."""
    reached = {module: set(names) for module, names in imports.items()}
    for via in reached:
        for module, names in reached.items():
            if via in names:
                reached[module] = names | reached[via]
    return {frozenset(b for b in reached if a in reached[b] and b in reached[a]) for a in reached if a in reached[a]}


def test_there_are_no_import_rings():
    assert _rings({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == {frozenset("bc")}
    assert not _rings(_module_imports())


def test_private_modules_are_imported_by_their_own_room_only():
    private = {
        (module, name)
        for module, names in _module_imports().items()
        for name in names
        if module.split(".")[0] != name.split(".")[0] and "._" in name
    }
    assert not private


def test_rooms_do_not_import_each_other_in_a_ring():
    assert not _rings(MAY_IMPORT)


def test_every_room_is_known():
    assert {_room(p) for p in _files()} == set(MAY_IMPORT)


def _loaded_by(code: str) -> set[str]:
    script = f"import sys; {code}; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split())


def test_importing_the_package_loads_nothing_heavy():
    assert not _loaded_by("import napari_histoad") & {"torch", "napari", "qtpy", "numpy", "zarr"}


@pytest.mark.parametrize("name", ["open_slide", "find_tissue", "AnomalyMap", "read_regions", "write_sample"])
def test_pixels_and_maps_load_no_torch_and_no_qt(name):
    assert not _loaded_by(f"import napari_histoad; napari_histoad.{name}") & {"torch", "napari", "qtpy"}


def test_worker_client_loads_no_torch_and_no_qt():
    loaded = _loaded_by("import napari_histoad.worker.client, napari_histoad.worker.protocol")
    assert not loaded & {"torch", "napari", "qtpy", "numpy", "zarr", "scipy"}


def test_the_panel_loads_no_torch():
    assert "torch" not in _loaded_by("import napari_histoad.gui.panel, napari_histoad.gui.reader")


def test_all_public_names_exist():
    import napari_histoad

    for name in napari_histoad.__all__:
        assert getattr(napari_histoad, name).__doc__
    with pytest.raises(AttributeError, match="no_such_name"):
        napari_histoad.no_such_name  # noqa: B018


def test_manifest_is_valid_and_its_commands_exist():
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-histoad")
    manifest.validate_imports()
    assert manifest.contributions.widgets[0].display_name == "Anomaly mapping"


def test_starter_model_is_small_and_described():
    from napari_histoad.detectors import read_header, starter_path

    assert starter_path().stat().st_size < 5_000_000
    assert read_header(starter_path()).settings["preset"] == "conv-32"
    card = (starter_path().parent / "README.md").read_text(encoding="utf-8")
    assert "not a diagnosis" in card
    assert "colour baseline" in card
