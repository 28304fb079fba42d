"""Step 7: the files to save, in the real panel."""


def test_save_section_needs_a_checked_file(panel):
    section = panel["save"]
    assert section.chosen() == ["report", "geojson", "png"]
    for row in range(section.kinds.count()):
        section.kinds.item(row).setCheckState(section.kinds.item(row).checkState().Unchecked)
    assert not section.save_button.enabled
