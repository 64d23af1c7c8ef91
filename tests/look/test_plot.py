"""Curves of runs: ticks, the pixel of a value, gaps, several runs on shared axes, and wrong input as one sentence."""

import json
import math

import numpy as np
import pytest
from PIL import Image, ImageColor

from vig_minimal.look import chart, plot
from vig_minimal.look.chart import HEIGHT, LEFT, TOP, WIDTH, Axis, Series, draw_curve, label, log_ticks, ticks
from vig_minimal.look.panels import FONT, LINE, PALETTE, colours, enlarged, shorten
from vig_minimal.training.run_log import write_table

NAN = math.nan
FIRST = 44  # row of the page below its title, where the panels of a single run begin


def write_run(folder, rows, config=None):
    """A run's folder, its metrics.csv written as train.py writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "metrics.csv", rows)
    if config is not None:
        model, data, recipe = config
        text = json.dumps({"name": model, "flags": {"data": data, "recipe": recipe}})
        (folder / "config.json").write_text(text)
    return folder


def epochs(*losses, lr=1e-3, first=0):
    """Rows with these validation losses; the other columns follow from the epoch."""
    return [{"epoch": epoch, "step": 10 * epoch, "lr": lr if epoch else "", "train_loss": 2 * loss if epoch else "",
             "val_loss": loss, "val_top1": 10.0 * epoch, "val_top5": 100.0, "images_per_s": 99.0 if epoch else "",
             "neighbours_0": 9.0, "neighbours_1": 9.0 + epoch} for epoch, loss in enumerate(losses, first)]


def drawn(tmp_path, *folders):
    plot.main([*map(str, folders), "--out", str(tmp_path / "curves.png")])
    with Image.open(tmp_path / "curves.png") as page:
        return np.asarray(page.convert("RGB")).astype(int)


def box(page, row, column, top=FIRST):
    """The pixels of the box of one panel; right for pages whose upper panels have one row of legend entries."""
    left = LEFT + column * (LEFT + WIDTH + chart.RIGHT)
    top += TOP + row * (TOP + HEIGHT + chart.BOTTOM + LINE + 2)
    return page[top:top + HEIGHT, left:left + WIDTH]


def near(pixels, colour, tolerance=40):
    """(…,) bool: which pixels (…, 3) have the colour, but for some smoothing."""
    return (np.abs(pixels - ImageColor.getrgb(colour)) <= tolerance).all(-1)


def at(low, high, value, length):
    """By hand: the pixel of a value on an axis from low to high."""
    return round((value - low) / (high - low) * (length - 1))


# ---- axes


@pytest.mark.parametrize("low, high, most, least, expected", [
    (0, 1, 5, 0, [0, 0.2, 0.4, 0.6, 0.8, 1]),
    (0, 100, 5, 0, [0, 20, 40, 60, 80, 100]),
    (0, 100, 10, 0, [0, 10, 20, 30, 40, 50, 60, 70, 80, 90, 100]),
    (0.93, 2.13, 6, 0, [1, 1.2, 1.4, 1.6, 1.8, 2]),
    (7, 69, 4, 0, [20, 40, 60]),
    (0, 0.0015, 4, 0, [0, 0.0005, 0.001, 0.0015]),
    (-3, 3, 3, 0, [-2, 0, 2]),
    (0, 299, 10, 1, [0, 50, 100, 150, 200, 250]),
    (0, 3, 10, 1, [0, 1, 2, 3]),  # no half epochs
    (0.5, 1.5, 10, 1, [1]),
    (0, 6, 10, 2, [0, 2, 4, 6]),
    (0, 0.6, 3, 0, [0, 0.2, 0.4, 0.6]),  # 0.6 / 0.2 is less than 3 in floating point
    (1e6, 4e6, 3, 0, [1e6, 2e6, 3e6, 4e6]),
])
def test_ticks_are_round_and_inside(low, high, most, least, expected):
    assert ticks(low, high, most, least) == expected


@pytest.mark.parametrize("low, high, expected", [
    (1e-5, 2e-3, [1e-5, 1e-4, 1e-3]), (40, 420, [50, 100, 200]), (0.9, 6, [1, 2, 5]), (24, 31, range(24, 32)),
    (11, 2000, [20, 50, 100, 200, 500, 1000, 2000]),
])
def test_ticks_of_a_logarithmic_axis(low, high, expected):
    assert log_ticks(low, high) == list(expected)


@pytest.mark.parametrize("mark, expected", [
    (0, "0"), (20, "20"), (0.2, "0.2"), (98.7, "98.7"), (0.0005, "0.0005"), (2e-5, "2e-5"), (1.2e-5, "1.2e-5"),
    (1e6, "1e6"), (1.5e6, "1.5e6"),
])
def test_ticks_as_text(mark, expected):
    assert label(mark) == expected


def test_a_value_has_its_pixel():
    axis = Axis(10.0, 20.0, [])
    assert [axis.pixel(value, 101) for value in (10, 15, 20, 12)] == pytest.approx([0, 50, 100, 20])
    axis = Axis(1e-5, 1e-1, [], log=True)
    assert [axis.pixel(value, 401) for value in (1e-5, 1e-4, 1e-2, 1e-1)] == pytest.approx([0, 100, 300, 400])


def test_the_axis_of_values():
    def axis(*values, kind="", first=0):
        return plot.value_axis([plot.Series("", list(enumerate(values, first)), "red")], kind)

    assert (axis(0, 100).low, axis(0, 100).high) == (-4, 104)
    assert axis(0, 100).ticks[-1] == 100
    assert (axis(NAN, 2, 1).low, axis(NAN, 2, 1).high) == pytest.approx((0.96, 2.04))
    # a huge loss of epoch 0 is left out; not a similar one, not in other panels, and not where it is the only one
    assert axis(553.6, 2, 1, kind="loss").high == pytest.approx(2.04)
    assert axis(4, 2, 1, kind="loss").high == pytest.approx(4.12)
    assert axis(553.6, 2, 1).high > 553.6
    assert axis(553.6, kind="loss").high > 553.6
    assert axis(2, 553.6, 1, kind="loss").high > 553.6  # epoch 1
    # a single level is shown above 0
    assert (axis(50, 50, 50).low, axis(50, 50, 50).high) == (-2, 52)
    assert axis(0, 0).high > 0 > axis(0, 0).low


def test_the_learning_rate_has_a_log_axis_if_it_spans_decades():
    def axis(*values):
        return plot.value_axis([plot.Series("", list(enumerate(values)), "red")], "rate")

    wide = axis(NAN, 2e-3, 1e-5)
    assert wide.log and wide.ticks == [1e-5, 1e-4, 1e-3] and wide.low < 1e-5 and wide.high > 2e-3
    assert not axis(2e-3, 1e-4).log
    assert not axis(2e-3, 0.0).log  # 0 has no logarithm


@pytest.mark.parametrize("numbers, expected", [([1], [1]), ([0, 1, 2, 3], [0, 1, 2, 3]), ([3, 23], [5, 10, 15, 20])])
def test_the_axis_of_epochs(numbers, expected):
    axis = plot.epoch_axis([plot.Series("", [(epoch, NAN)], "red") for epoch in numbers])
    assert axis.ticks == expected and axis.low < numbers[0] and axis.high > numbers[-1]
    assert axis.high - axis.low <= 1.04 * (numbers[-1] - numbers[0]) + (len(numbers) == 1)


# ---- curves


def curve(page, box, path, colour, dashed=False, sharers=1, turn=0):
    with enlarged(page, *box) as large:
        draw_curve(large, path, Series("", [], colour, dashed), sharers, turn)


def test_a_line_is_left_out_at_gaps():
    page = Image.new("RGB", (100, 20), "white")
    curve(page, (0, 0, 100, 20), [(5, NAN), (15, 10), (35, 10), (50, math.inf), (65, NAN), (80, 10)], "#000000")
    dark = np.nonzero((np.asarray(page) < 100).any((0, 2)))[0].tolist()
    assert [dark[0], dark[-1]] == [12, 83] and set(dark) == {*range(12, 39), *range(77, 84)}


def test_a_dashed_line_follows_the_path():
    page = Image.new("RGB", (60, 60), "white")
    curve(page, (0, 0, 60, 60), [(5, 5), (55, 5), (55, 55)], "#000000", dashed=True)  # a corner, 100 long in all
    dark = np.asarray(page)[..., 0] < 100
    for along in (dark[5, 9:51], dark[9:51, 55]):
        assert 0.5 < along.mean() < 0.8 and 6 <= (np.diff(along.astype(int)) != 0).sum() <= 10


def test_a_curve_is_smooth_has_markers_and_stays_in_its_box():
    page = Image.new("RGB", (80, 60), "white")
    curve(page, (10, 10, 60, 40), [(0, 30.0), (30, 0.0), (59, 30.0)], "#0000ff")
    pixels = np.asarray(page).astype(int)
    assert page.getpixel((10 + 30, 10)) == (0, 0, 255)  # the marker's centre, at the box's upper edge
    assert (pixels[:10] == 255).all() and (pixels[:, :10] == 255).all() and (pixels[50:] == 255).all()
    partly = (pixels[..., 0] > 20) & (pixels[..., 0] < 235)
    assert partly.sum() > 60  # edges
    assert near(pixels[10 + 15 - 2:10 + 15 + 3, 10 + 15], "#0000ff", 90).any()  # half way between two points


def test_the_middle_of_a_marker_is_the_middle_of_its_pixel():
    page = Image.new("RGB", (21, 21), "white")
    curve(page, (0, 0, 21, 21), [(10, 10)], "#000000")
    pixels = np.asarray(page).astype(int)
    assert (pixels == 0).any() and (pixels == pixels[::-1]).all() and (pixels == pixels[:, ::-1]).all()


def test_hollow_markers_and_crowded_ones():
    page = Image.new("RGB", (300, 20), "white")
    curve(page, (0, 0, 300, 20), [(10, 10), (40, 10)], "#000000", dashed=True)
    assert page.getpixel((10, 10)) == page.getpixel((40, 10)) == (255, 255, 255)
    assert page.getpixel((7, 10))[0] < 60
    page = Image.new("RGB", (300, 20), "white")
    curve(page, (0, 0, 300, 20), [(x, 10) for x in range(10, 200, 4)], "#000000")
    assert page.getpixel((50, 7)) == (255, 255, 255) and page.getpixel((50, 10))[0] < 60  # a line alone
    curve(page, (0, 0, 300, 20), [(x, 10 if x in (150, 250) else NAN) for x in range(10, 300, 4)], "#ff0000")
    assert page.getpixel((250, 8)) == (255, 0, 0)  # a point alone shows, however many epochs there are


def test_equal_curves_share_their_path():
    page = Image.new("RGB", (300, 20), "white")
    for turn, colour in enumerate(("#ff0000", "#00ff00", "#0000ff")):
        curve(page, (0, 0, 300, 20), [(10, 10), (150, 10), (290, 10)], colour, sharers=3, turn=turn)
    pixels = np.asarray(page).astype(int)
    counts = [near(pixels[9:12], colour, 90).sum() for colour in ("#ff0000", "#00ff00", "#0000ff")]
    assert min(counts) > 0.2 * sum(counts) and sum(counts) > 500
    markers = [page.getpixel((x, 8)) for x in (10, 150, 290)]  # beside the line
    assert markers == [(255, 0, 0), (0, 255, 0), (0, 0, 255)]


def test_every_curve_has_its_own_colour():
    assert colours(3) == list(PALETTE[:3])
    for number in (1, 7, 8, 16, 30):
        assert len({ImageColor.getrgb(colour) for colour in colours(number)}) == number


def test_long_names_are_shortened():
    assert shorten("short", FONT, 100) == "short"
    name = shorten("a very long name " * 9, FONT, 100)
    assert name.startswith("a very") and name.endswith("…") and 80 < FONT.getlength(name) <= 100


# ---- the picture of one run


def test_values_are_drawn_where_they_are(tmp_path):
    page = drawn(tmp_path, write_run(tmp_path / "run", epochs(4.0, 2.5, 3.0, 1.0)))
    panel, columns = box(page, 0, 0), [at(-0.06, 3.06, epoch, WIDTH) for epoch in range(4)]
    low, high = 1 - 0.04 * 5, 6 + 0.04 * 5  # training losses are 5, 6 and 2; a 4 % margin around 1 to 6
    for epoch, loss in enumerate((4.0, 2.5, 3.0, 1.0)):
        row = HEIGHT - 1 - at(low, high, loss, HEIGHT)
        assert near(panel[row, columns[epoch]], PALETTE[1], 0)
        assert (panel[row - 12, columns[epoch]] == ImageColor.getrgb(chart.GRID)).all()  # grid lines of the epochs
    middle = HEIGHT - 1 - at(low, high, 3.25, HEIGHT)  # the line from 4.0 to 2.5
    assert near(panel[middle - 2:middle + 3, (columns[0] + columns[1]) // 2], PALETTE[1], 90).any()
    row = HEIGHT - 1 - at(low, high, 5.0, HEIGHT)  # the first training loss: a ring, and none before it
    assert near(panel[row - 5:row + 6, columns[1] - 5:columns[1] + 6], PALETTE[0]).any()
    assert not near(panel[:, :columns[1] - 6], PALETTE[0]).any()

    panel = box(page, 0, 1)  # top-1 of 0, 10, 20, 30 %
    for epoch in range(4):
        assert near(panel[HEIGHT - 1 - at(-1.2, 31.2, 10 * epoch, HEIGHT), columns[epoch]], PALETTE[0], 0)
    panel = box(page, 1, 0)  # neighbours: layer 0 has 9, layer 1 from 9 to 12
    assert near(panel[HEIGHT - 1 - at(8.88, 12.12, 9, HEIGHT), columns[2]], PALETTE[0], 0)
    assert near(panel[HEIGHT - 1 - at(8.88, 12.12, 11, HEIGHT), columns[2]], PALETTE[1], 0)


def test_layers_are_in_order_however_many(tmp_path):
    row = {"epoch": 1, **{f"neighbours_{layer}": float(layer) for layer in range(12)}}
    panel, = plot.charts_of({"run": plot.read_run(write_run(tmp_path / "run", [row]))})
    assert [(s.name, s.points) for s in panel.legend] == [(f"layer {i}", [(1, i)]) for i in range(12)]


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-inf", "oops"])
def test_a_gap_is_left_where_there_is_no_number(tmp_path, cell):
    rows = epochs(1.0, 2.0, 3.0, 2.0, 1.0)
    rows[2]["val_loss"] = cell
    panel = box(drawn(tmp_path, write_run(tmp_path / "run", rows)), 0, 0)
    first, last = (at(-0.08, 4.08, epoch, WIDTH) for epoch in (1, 3))
    assert near(panel[:, first], PALETTE[1]).any() and near(panel[:, last], PALETTE[1]).any()
    assert not near(panel[:, first + 5:last - 4], PALETTE[1]).any()
    assert near(panel[:, (first + last) // 2 - 30:(first + last) // 2], PALETTE[0]).any()  # training goes on


@pytest.mark.parametrize("first", [0, 1, 7])
def test_a_single_epoch_shows(tmp_path, first):
    page = drawn(tmp_path, write_run(tmp_path / "run", epochs(2.0, first=first)))
    panel = box(page, 0, 0)
    middle = panel[:, WIDTH // 2 - 4:WIDTH // 2 + 5]
    assert near(middle, PALETTE[1], 0).sum() > 12  # a disc
    assert near(middle, PALETTE[0]).any() == (first > 0)  # before training there is no training loss
    assert not near(panel[:, :WIDTH // 2 - 4], PALETTE[1]).any()


def test_a_huge_first_loss_does_not_flatten_the_curve(tmp_path):
    panel = box(drawn(tmp_path, write_run(tmp_path / "run", epochs(553.6, 2.0, 1.5, 1.0))), 0, 0)
    start, end = (at(-0.06, 3.06, epoch, WIDTH) for epoch in (1, 3))
    rows = np.nonzero(near(panel, PALETTE[1]).any(1))[0]
    assert rows[-1] - rows[0] > 0.3 * HEIGHT  # 1 to 2 on an axis to 4
    assert not near(panel[:, :start - 6], PALETTE[1]).any() and near(panel[:, end], PALETTE[1]).any()
    row = HEIGHT - 1 - at(0.88, 4.12, 2.0, HEIGHT)  # of epoch 1: no line comes from above
    assert near(panel[row, start], PALETTE[1], 0) and not near(panel[:row - 5], PALETTE[1]).any()
    plot.main([str(write_run(tmp_path / "huge", epochs(3e38, 2.0, 1.0))), "--out", str(tmp_path / "huge.png")])


def test_panels_without_values_are_left_out(tmp_path):
    rows = [{"epoch": epoch, "train_loss": 1.0 / epoch, "val_loss": ""} for epoch in (1, 2)]
    page = drawn(tmp_path, write_run(tmp_path / "run", rows))
    assert page.shape[1] == LEFT + WIDTH + chart.RIGHT


def test_another_measure_than_top1(tmp_path):
    rows = [{"epoch": 1, "val_loss": 1.0, "val_loss_asymmetric": 2.0, "val_CF1": 30.0, "val_mAP": 40.0}]
    charts = plot.charts_of({"run": plot.read_run(write_run(tmp_path / "run", rows))})
    assert [chart.heading for chart in charts] == ["loss", "validation mAP (%)"]
    assert charts[1].curves[0].points == [(1, 40.0)]


def test_reading_metrics(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,lr,val_loss,note\n2,0.1,nan,\n0,-inf,7,x\n1,9,3,\n1,4,2,\n3,0.")
    rows = plot.read_run(tmp_path)
    assert list(rows.items()) == [(0, {"epoch": 0, "val_loss": 7}), (1, {"epoch": 1, "lr": 4, "val_loss": 2}),
                                  (2, {"epoch": 2, "lr": 0.1})]
    assert plot.points(rows, ["lr", "val_loss"])[1] == (1, 3)  # the mean
    gaps = plot.points(rows, ["lr", "val_loss"])[::2] + plot.points(rows, [])  # without all there is none
    assert all(math.isnan(value) for _, value in gaps)


# ---- several runs


def test_several_runs_share_axes_and_have_their_colours(tmp_path, capsys):
    short = write_run(tmp_path / "short", epochs(3.0, 2.0, 1.0), ("vig_nano", "shapes", "demo"))
    long = write_run(tmp_path / "long", epochs(3.0, 2.5, 2.0, 1.5, 1.0), ("lrgc_nano", "shapes", "demo"))
    page = drawn(tmp_path, short, long)
    assert capsys.readouterr().out == f"wrote {tmp_path / 'curves.png'}\n"
    top = FIRST + LINE + 2  # below the legend of the runs
    ends = [at(-0.08, 4.08, epoch, WIDTH) for epoch in (2, 4)]
    for row, column in ((0, 1), (1, 0), (1, 1)):
        panel = box(page, row, column, top)
        for colour, end in zip(PALETTE, ends):
            columns = np.nonzero(near(panel, colour).any(0))[0]
            assert abs(columns[-1] - end) <= 4
    panel = box(page, 1, 0, top)  # mean over the layers: 9, 9.5, …, 11 at epoch 4
    assert near(panel[HEIGHT - 1 - at(8.92, 11.08, 11, HEIGHT), ends[1]], PALETTE[1], 0)
    assert near(panel[HEIGHT - 1 - at(8.92, 11.08, 10, HEIGHT), ends[0]], PALETTE[0], 0)  # the shorter one on top
    legend = page[FIRST:top]
    assert near(legend, PALETTE[0]).any() and near(legend, PALETTE[1]).any()


def test_equal_runs_show_both_colours_in_every_panel(tmp_path):
    page = drawn(tmp_path, *(write_run(tmp_path / name, epochs(3.0, 2.0, 1.0)) for name in ("first", "second")))
    for row in (0, 1):
        for column in (0, 1):
            panel = box(page, row, column, FIRST + LINE + 2)
            counts = [near(panel, colour, 60).sum() for colour in PALETTE[:2]]
            assert min(counts) > 0.3 * sum(counts) > 50


def test_names_are_made_distinct(tmp_path):
    folders = [tmp_path / "seed0" / "vig", tmp_path / "seed1" / "vig", tmp_path / "lrgc"]
    assert plot.run_names(folders) == ["seed0/vig", "seed1/vig", "lrgc"]


def test_a_run_given_twice_is_drawn_once(tmp_path, monkeypatch):
    monkeypatch.chdir(write_run(tmp_path / "run", epochs(2.0, 1.0)))
    seen = []
    monkeypatch.setattr(plot, "draw", lambda runs, title: seen.append((list(runs), title)) or Image.new("RGB", (1, 1)))
    plot.main([".", str(tmp_path / "run"), "../run/"])
    assert seen == [(["run"], "run")]


def test_the_title_says_model_data_and_recipe(tmp_path):
    one = write_run(tmp_path / "one", [], ("lrgc_ti", "imagenet", "lrgc"))
    two = write_run(tmp_path / "two", [], ("vig_ti", "imagenet", "vig"))
    none, broken = write_run(tmp_path / "none", []), write_run(tmp_path / "broken", [])
    (broken / "config.json").write_text('{"name": "lrgc_ti", "flags"')
    assert plot.title_of([one]) == "one: lrgc_ti on imagenet, recipe lrgc"
    assert plot.title_of([one, two, none, broken]) == "lrgc_ti, vig_ti on imagenet, recipe lrgc, vig"
    assert plot.title_of([none, broken]) == "none, broken"


# ---- what can go wrong


@pytest.mark.parametrize("argv, message", [
    (["missing"], "missing: no such folder"),
    (["run/metrics.csv"], "metrics.csv: no such folder"),
    (["bare"], "bare: there is no metrics.csv in it; give the folder of a run"),
    (["run", "bare"], "bare: there is no metrics.csv in it"),
    (["empty"], "there is no row with an epoch in it"),
    (["header"], "there is no row with an epoch in it"),
    (["binary"], "metrics.csv: cannot be read"),
    (["folder"], "metrics.csv: cannot be read"),
    (["other"], "there is no row with an epoch in it"),
    (["nothing"], "there is nothing to draw"),
    (["run", "--out", "nowhere/a.png"], "nowhere/a.png: the picture cannot be written (No such file or directory)"),
    (["run", "--out", "taken.png"], "taken.png: the picture cannot be written (Is a directory)"),
    (["run", "--out", "curves.txt"], "--out: curves.txt: the picture cannot be written; give a name that ends in .png"),
    (["run", "--out", ""], "give a name that ends in .png"),
    ([], "required: DIR"),
])
def test_wrong_input_is_one_sentence(argv, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_run(tmp_path / "run", epochs(2.0, 1.0))
    write_run(tmp_path / "nothing", [{"epoch": 1, "images_per_s": 5.0}])
    for name in ("bare", "taken.png", "folder/metrics.csv"):
        (tmp_path / name).mkdir(parents=True)
    for name, data in (("empty", b""), ("header", b"epoch,lr,val_loss\n"), ("binary", bytes(range(256))),
                       ("other", b"name,age\nA,3\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "metrics.csv").write_bytes(data)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(SystemExit) as exit:
        plot.main(argv)
    printed = capsys.readouterr()
    assert exit.value.code == 2 and printed.out == ""
    assert message in printed.err and printed.err.startswith("plot: error: ") and printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before  # nothing half-written stays


def test_a_full_disk_leaves_the_picture_that_was_there(tmp_path, monkeypatch, capsys):
    def fill(page, file, kind):
        file.write(b"half a picture")
        raise OSError(28, "No space left on device")

    run = write_run(tmp_path / "run", epochs(2.0, 1.0))
    drawn(tmp_path, run)
    before = (tmp_path / "curves.png").read_bytes()
    monkeypatch.setattr(Image.Image, "save", fill)
    with pytest.raises(SystemExit):
        plot.main([str(run), "--out", str(tmp_path / "curves.png")])
    assert "curves.png: the picture cannot be written (No space left on device)" in capsys.readouterr().err
    assert (tmp_path / "curves.png").read_bytes() == before
    assert not list(tmp_path.glob("*.tmp"))


def test_help_shows_an_example(capsys):
    with pytest.raises(SystemExit) as exit:
        plot.main(["--help"])
    assert exit.value.code == 0 and "example: python -m vig_minimal plot runs/" in capsys.readouterr().out


def test_terms_of_a_loss_have_a_panel_of_their_own_in_a_single_run(tmp_path):
    rows = [row | {"train_smooth": 6 - row["epoch"] if row["epoch"] else "",
                   "train_asymmetric": 9.0 if row["epoch"] else ""}
            for row in epochs(3.0, 2.0, 1.0)]
    run = plot.read_run(write_run(tmp_path / "a", rows))
    heading = {panel.heading: panel for panel in plot.charts_of({"a": run})}
    terms = heading["terms of the training loss"]
    assert [(s.name, s.points[1:]) for s in terms.curves] == [("smooth", [(1.0, 5.0), (2.0, 4.0)]),
                                                             ("asymmetric", [(1.0, 9.0), (2.0, 9.0)])]
    assert terms.legend == terms.curves
    alone = {panel.heading for panel in plot.charts_of({"a": run, "b": run})}
    assert "terms of the training loss" not in alone
