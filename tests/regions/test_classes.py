import pytest

from napari_histoad.regions import Region, class_meaning
from napari_histoad.regions._classes import UNREADABLE, class_of


@pytest.mark.parametrize(
    ("name", "meaning"),
    [
        ("Normal", "normal"),
        (" NORMAL ", "normal"),
        ("normal_tissue", "normal"),
        ("Benign", "normal"),
        ("Healthy", "normal"),
        ("Normal: CD3+", "normal"),
        ("Normal: Stroma", "normal"),
        ("Stroma: Normal", "normal"),
        ("Normal: Negative", "normal"),
        ("Normal: Positive", "normal"),
        ("Normal:1+", "normal"),
        ("Tumor", "anomalous"),
        ("Tumor: Negative", "anomalous"),
        ("Tumor: 1+", "anomalous"),
        ("Tumor+", "anomalous"),
        ("Stroma", "anomalous"),
        ("Stroma: Negative", "anomalous"),
        ("Immune cells: Positive", "anomalous"),
        ("positive", "anomalous"),
        ("Abnormal", "anomalous"),
        ("Non-small cell carcinoma", "anomalous"),
        ("Опухоль", "anomalous"),
        ("Normal: Tumor", "unknown"),
        ("Tumor: Normal", "unknown"),
        ("Normal: Necrosis", "unknown"),
        ("Normal: Artefact", "unknown"),
        ("Normal: unsure", "unknown"),
        ("Benign: Fibroadenoma", "unknown"),
        ("Negative", "unknown"),
        ("CD3+", "unknown"),
        ("2+", "unknown"),
        ("0", "unknown"),
        ("Not normal", "unknown"),
        ("Non-tumor", "unknown"),
        ("Tumor-free", "unknown"),
        ("Unsure", "unknown"),
        ("None", "unknown"),
        (UNREADABLE, "unknown"),
        ("Ignore*", "ignored"),
        ("Region*", "ignored"),
        ("Anything*", "ignored"),
        ("Tumor: Ignore*", "ignored"),
        ("ignore", "ignored"),
        ("", "unclassed"),
        (" : ", "unclassed"),
    ],
)
def test_class_meaning_is_normal_only_for_clear_names(name, meaning):
    assert class_meaning(name) == meaning
    assert Region(None, name).is_normal == (meaning == "normal")


@pytest.mark.parametrize(
    ("properties", "name"),
    [
        ({"classification": {"name": "Tumor"}}, "Tumor"),
        ({"classification": {"names": ["Tumor", "Necrosis"], "color": [1, 2, 3]}}, "Tumor: Necrosis"),
        ({"classification": {"name": "Tumor: Necrosis", "names": ["Tumor", "Necrosis"]}}, "Tumor: Necrosis"),
        ({"classification": {"name": "Normal", "names": ["Tumor"]}}, "Normal: Tumor"),
        ({"classification": {"name": "Positive", "parentClass": {"name": "Tumor"}}}, "Tumor: Positive"),
        ({"classification": "Tumor"}, "Tumor"),
        ({"classification": ["Tumor", "Positive"]}, "Tumor: Positive"),
        ({"classification": [{"name": "Tumor"}, {"name": "Normal"}]}, "Tumor: Normal"),
        ({"classification": 3}, "3"),
        ({"classification": {"name": 2.0}}, "2"),
        ({"classification": {"name": "Tumor"}, "name": "Normal"}, "Tumor"),
        ({"classification": None, "name": "Normal"}, "Normal"),
        ({"label": {"value": "Tumor"}}, "Tumor"),
        ({"class_name": "Tumor"}, "Tumor"),
        ({}, ""),
        ({"classification": None, "name": None}, ""),
        ({"classification": {}}, ""),
        ({"classification": {"name": None, "color": [0, 0, 0]}}, ""),
        ({"classification": {"names": [None, " "]}, "measurements": {"a": 1}, "isLocked": True, "color": [1, 2, 3]}, ""),
        ({"id": 3, "type": "Polygon", "area_um2": 3.5}, ""),
        ({"classification": {"colorRGB": -1}}, UNREADABLE),
        ({"classification": True}, UNREADABLE),
        ({"classification": {"name": {"en": "Tumor"}}}, UNREADABLE),
        ({"classification": {"names": [["Tumor", {"x": 1}]]}}, UNREADABLE),
        ({"classification": {"colorRGB": -1}, "name": "Normal"}, UNREADABLE),
        ({"diagnosis": "carcinoma"}, UNREADABLE),
        ({"tissue_class": 1}, UNREADABLE),
        ({"type": "tumor"}, UNREADABLE),
        ({"tags": ["tumor"]}, UNREADABLE),
    ],
)
def test_class_of_reads_classes_of_any_program(properties, name):
    assert class_of(properties) == name
