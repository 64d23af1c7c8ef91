"""The sheet of synthetic scenes, and the linear classifier on their raw pixels."""

import pytest
from PIL import Image

from vig_minimal.data.synthetic import VIEWS
from vig_minimal.look import scene_sheet


@pytest.mark.parametrize("view", VIEWS)
def test_contact_sheet(view, tmp_path, capsys):
    scene_sheet.main(["--out", str(tmp_path / "sheet.png"), "--view", view, "--size", "32"])
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 10 * 96 and sheet.height > 4 * 96
    assert "wrote" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [[], ["--out", "sheet.png", "--size", "8"], ["--out", "nowhere/sheet.png"],
                                  ["--out", "sheet.png", "--size", "100000000"]])
def test_a_wrong_command_ends_with_code_2(argv, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as exit:
        scene_sheet.main(argv)
    assert exit.value.code == 2 and "error: " in capsys.readouterr().err


def test_raw_pixels_do_not_tell_the_class():
    # a small version of `--linear`; the whole is in the module's docstring
    assert scene_sheet.linear_baseline(32, train=1000, val=500, epochs=5) < 25
