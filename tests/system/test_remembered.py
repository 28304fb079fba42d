from napari_histoad.system.remembered import recall, remember


def test_recall_returns_what_was_remembered_for_the_same_kind_only():
    remember("kind", "a", 0.25)
    remember("kind", "b", "text")
    assert recall("kind", "a") == 0.25
    assert recall("kind", "b") == "text"
    assert recall("kind", "c") is None
    assert recall("other", "a") is None


def test_recall_returns_none_if_the_file_is_damaged_or_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    remember("kind", "a", 1)
    (table,) = tmp_path.rglob("kind.json")
    for text in ("{", "[1]", ""):
        table.write_text(text)
        assert recall("kind", "a") is None
    remember("kind", "a", 2)
    assert recall("kind", "a") == 2
    monkeypatch.setenv("XDG_CONFIG_HOME", str(table))  # a file, not a folder
    remember("kind", "a", 3)
    assert recall("kind", "a") is None
