"""The pictures: what they show is what was given, and drawing them leaves no trace in the process."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import tolerances
from scipy.stats import binomtest

matplotlib = pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: examples)")

from matplotlib.backends import backend_agg  # noqa: E402

from portnn import plots  # noqa: E402

ROUNDING = tolerances.few_steps(1.0, "float64")  # of means of numbers up to 1
HISTORY = {
    "loss": [0.9, 0.5, 0.3, 0.2],
    "val_loss": [0.8, 0.6, 0.4, 0.5],
    "accuracy": [0.5, 0.7, 0.8, 0.9],
    "val_accuracy": [0.55, 0.75, 0.7, 0.65],
    "epoch_seconds": [1.0, 1.5, 1.0, 1.0],
}


def random_case(n_rows=200, n_classes=10, n_features=64):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.ones(n_classes), n_rows)
    t_pred = p.argmax(axis=1)
    t_true = np.where(rng.random(n_rows) < 0.3, rng.integers(0, n_classes, n_rows), t_pred)
    return rng.random((n_rows, n_features)), t_true, t_pred, p


def title(axes):
    return axes.get_title(loc="left")


def line(axes, label):
    return next(drawn for drawn in axes.lines if drawn.get_label() == label)


def shown_counts(figure, n_classes):
    """Read the counts back from the numbers written into the cells; the shares end in %."""
    counts = np.zeros((n_classes, n_classes), dtype=int)
    for text in figure.axes[0].texts:
        if not text.get_text().endswith("%"):
            j, i = text.get_position()
            counts[round(i), round(j)] = int(text.get_text())
    return counts


def overlapping(figure):
    """Return the pairs of visible texts whose boxes share more than a hair, and the texts beyond the edge."""
    from matplotlib.text import Text

    # The layout is settled, and tick labels hold their texts, only after a first drawing.
    figure.draw_without_rendering()
    unseen = set()
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [*axis.get_major_ticks(), *axis.get_minor_ticks()]
            unseen |= {tick.label1 for tick in ticks if not (axes.axison and low <= tick.get_loc() <= high)}
    boxes = [
        (text.get_text(), text.get_window_extent())
        for text in figure.findobj(Text)
        if text.get_text().strip() and text.get_visible() and text not in unseen
    ]
    width, height = figure.bbox.width, figure.bbox.height
    found = [name for name, b in boxes if b.x0 < 0 or b.y0 < 0 or b.x1 > width or b.y1 > height]
    for k, (name, a) in enumerate(boxes):
        for other, b in boxes[:k]:
            across = min(a.x1, b.x1) - max(a.x0, b.x0)
            if across > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.3 * min(a.height, b.height):
                found.append((name, other))
    return found


def test_curves_are_the_history():
    figure = plots.learning_curves(HISTORY)
    loss, accuracy = figure.axes
    for axes, name in ((loss, "loss"), (accuracy, "accuracy")):
        for label, key in (("training", name), ("validation", f"val_{name}")):
            assert list(line(axes, label).get_xdata()) == [1, 2, 3, 4]
            assert list(line(axes, label).get_ydata()) == HISTORY[key]
    assert "4 epochs in 4.5 s" in figure.get_suptitle()


def test_best_validation_is_lowest_loss_and_highest_accuracy():
    loss, accuracy = plots.learning_curves(HISTORY).axes
    assert line(loss, "best").get_xydata().tolist() == [[3, 0.4]]
    assert line(accuracy, "best").get_xydata().tolist() == [[2, 0.75]]
    assert "0.4, epoch 3" in title(loss)
    assert "75.00%, epoch 2" in title(accuracy)


@pytest.mark.parametrize(
    "history",
    [
        {"loss": [1.0, 0.5]},
        {"loss": [1.0, 0.5], "val_loss": [], "accuracy": [], "val_accuracy": [], "epoch_seconds": []},
        {"loss": (1.0, float("nan"), float("inf"))},
        {"loss": [float("nan")]},
    ],
    ids=["absent", "empty", "not finite", "nothing finite"],
)
def test_without_validation_and_accuracy_one_plain_panel(history):
    figure = plots.learning_curves(history)
    figure.draw_without_rendering()
    (axes,) = figure.axes
    assert title(axes) == "loss"


@pytest.mark.parametrize("n_epochs", [1, 2, 7, 100])
def test_epochs_are_integers_from_one(n_epochs):
    falling = [2.0 * 0.93**k for k in range(n_epochs)]
    figure = plots.learning_curves({"loss": falling, "val_loss": falling})
    figure.draw_without_rendering()
    (axes,) = figure.axes
    low, high = axes.get_xlim()
    shown = [tick for tick in axes.get_xticks() if low <= tick <= high]
    assert shown
    assert all(tick == int(tick) and 1 <= tick <= n_epochs for tick in shown)
    assert axes.get_yscale() == ("log" if n_epochs == 100 else "linear")


def test_curves_of_members_are_mean_and_range():
    each = np.random.default_rng(0).uniform(0.1, 1.0, (5, 3))
    figure = plots.learning_curves(
        {"loss": each.tolist(), "val_loss": (each + 1.0).tolist(), "epoch_seconds": [1.0] * 5}
    )
    (axes,) = figure.axes
    tolerances.assert_within(line(axes, "training").get_ydata(), each.mean(axis=1), ROUNDING)
    (band, _) = axes.collections
    corners = {tuple(corner) for corner in band.get_paths()[0].vertices.tolist()}
    assert {(k + 1.0, each[k].min()) for k in range(5)} <= corners
    assert {(k + 1.0, each[k].max()) for k in range(5)} <= corners
    assert "mean and range of 3 members" in figure.get_suptitle()
    best = int(each.mean(axis=1).argmin()) + 1
    assert f"epoch {best}" in title(axes)
    alone = plots.learning_curves({"loss": each[:, :1].tolist()})
    assert "members" not in alone.get_suptitle()


def test_a_member_that_diverged_leaves_the_others():
    figure = plots.learning_curves({"loss": [[1.0, 2.0], [0.5, float("nan")], [float("nan")] * 2]})
    y = line(figure.axes[0], "training").get_ydata()
    assert y[:2].tolist() == [1.5, 0.5]
    assert np.isnan(y[2])


def test_confusion_matrix_is_that_of_scikit_learn():
    sklearn_metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    _, t_true, t_pred, _ = random_case()
    figure = plots.confusion_matrix(t_true.astype(np.uint8), t_pred)
    expected = sklearn_metrics.confusion_matrix(t_true, t_pred)
    assert (shown_counts(figure, 10) == expected).all()
    recalls = sklearn_metrics.recall_score(t_true, t_pred, average=None)
    np.testing.assert_array_equal(line(figure.axes[1], figure.axes[1].lines[0].get_label()).get_xdata(), recalls)
    # The diagonal stands outside of the scale, which therefore shows the mistakes.
    shades = figure.axes[0].images[0].get_array()
    assert (shades.mask == np.eye(10, dtype=bool)).all()
    np.testing.assert_array_equal(
        shades.filled(0), np.where(np.eye(10), 0, expected / expected.sum(axis=1, keepdims=True))
    )


def test_confusion_matrix_names_and_unseen_classes():
    figure = plots.confusion_matrix([0, 1], [0, 0], class_names=np.array(["cat", "dog", "cow"]))
    matrix, recall = figure.axes
    assert [label.get_text() for label in matrix.get_yticklabels()] == ["cat", "dog", "cow"]
    assert recall.lines[0].get_xydata().tolist() == [[1, 0], [0, 1]]
    assert plots.confusion_matrix([0, 1], [0, 0], n_classes=4).axes[0].images[0].get_array().shape == (4, 4)


def test_many_classes_are_shaded_without_numbers():
    t = np.arange(60)
    figure = plots.confusion_matrix(t, t[::-1])
    assert not figure.axes[0].texts
    assert len(figure.axes[0].get_yticks()) <= 40


def test_class_report_is_that_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    _, t_true, t_pred, _ = random_case()
    rows = {row.split()[0]: row.split()[1:] for row in plots.class_report(t_true, t_pred).splitlines()[2:12]}
    values = metrics.precision_recall_fscore_support(t_true, t_pred)
    for k, row in enumerate(zip(*values, strict=True)):
        assert rows[str(k)] == [*(f"{v:.3f}" for v in row[:3]), str(row[3])]
    named = plots.class_report([0, 1], [0, 0], class_names=["cat", "dog", "cow"])
    assert [text.split()[0] for text in named.splitlines()[2:5]] == ["cat", "dog", "cow"], "unseen ones too"


def test_missing_scikit_learn_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.metrics", None)
    with pytest.raises(ImportError, match=r"class_report: .*pip install scikit-learn"):
        plots.class_report([0, 1], [0, 1])


@pytest.mark.parametrize("binary", [False, True])
def test_calibration_is_that_of_scikit_learn(binary):
    sklearn_calibration = pytest.importorskip("sklearn.calibration", reason="scikit-learn is not installed")
    _, t_true, _, p = random_case(500, n_classes=2 if binary else 4)
    given = p[:, 1] if binary else p
    sure, right = (given, t_true) if binary else (p.max(axis=1), p.argmax(axis=1) == t_true)
    figure = plots.calibration(t_true, given, n_bins=8)
    axes, below = figure.axes
    share, mean = sklearn_calibration.calibration_curve(right, sure, n_bins=8)
    drawn = line(axes, "bins").get_xydata()
    tolerances.assert_within(drawn, np.stack([mean, share], axis=1), ROUNDING)
    counts, _ = np.histogram(sure, 8, (0.0, 1.0))
    assert [bar.get_height() for bar in below.patches] == counts.tolist()
    n = counts[counts > 0]
    error = (n * np.abs(mean - share)).sum() / n.sum()
    assert figure.get_suptitle() == f"Calibration: expected calibration error {error:.2%}"
    low, high = zip(*(segment[:, 1] for segment in axes.collections[0].get_segments()), strict=True)
    for k, rate, a, b in zip(n, share, low, high, strict=True):
        interval = binomtest(round(k * rate), int(k)).proportion_ci(0.95, "wilson")
        tolerances.assert_within([a, b], interval, tolerances.DRAWN)


def test_a_sure_prediction_is_in_the_last_bin():
    figure = plots.calibration([0, 1], [[1.0, 0.0], [1.0, 0.0]], n_bins=4)
    assert [bar.get_height() for bar in figure.axes[1].patches] == [0, 0, 0, 2]
    assert figure.get_suptitle().endswith(" 50.00%")


def circles(n=200):
    x = np.random.default_rng(0).normal(size=(n, 2))
    return x, ((x**2).sum(axis=1) > 1.0).astype(int)


@pytest.mark.parametrize("shape", ["classes", "column", "vector"])
def test_decision_boundary_is_where_the_class_changes(shape):
    x, t = circles()

    def circle(points):
        assert points.dtype == np.float64
        y = (points**2).sum(axis=1) - 1.0
        return {"classes": np.stack([-y, y], axis=1), "column": y[:, None], "vector": y}[shape]

    figure = plots.decision_boundary(circle, x, t, class_names=["in", "out"], axis_names=("u", "v"), resolution=150)
    (axes,) = figure.axes
    assert figure.get_suptitle() == "Decision boundary: 200 of 200 correct (100.00%)"
    regions, *rest = axes.collections
    boundary = next(c for c in rest if hasattr(c, "levels")).get_paths()[0].vertices
    step = np.ptp(np.asarray(axes.get_xlim())) / 149
    assert np.abs(np.hypot(*boundary.T) - 1.0).max() < 1.5 * step, "a circle, to a cell of the grid"
    points = [c for c in rest if c.get_label() in ("in", "out")]
    for c, k in zip(points, (0, 1), strict=True):
        assert (np.asarray(c.get_offsets()) == x[t == k]).all()
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("u", "v")
    assert regions.get_array().size == 150 * 150


def test_names_of_classes_are_drawn_as_they_are():
    names, (x, t) = ["$5 to $9", "_x"], circles()
    figures = [
        plots.confusion_matrix([0, 1], [0, 1], class_names=names),
        plots.decision_boundary(lambda z: z, x, t, class_names=names, axis_names=names, resolution=20),
    ]
    confusion, boundary = (figure.axes[0] for figure in figures)
    legend = boundary.get_legend().get_texts()
    for labels in confusion.get_yticklabels(), legend[:2], [boundary.xaxis.label, boundary.yaxis.label]:
        # What matplotlib draws, and whether it takes it for TeX.
        assert [label._preprocess_math(label.get_text()) for label in labels] == [(name, False) for name in names]
    assert [text.get_text() for text in legend[2:]] == ["mistake"]
    for figure in figures:
        figure.canvas.draw()


def test_mistakes_are_crossed():
    x, t = circles()
    figure = plots.decision_boundary(lambda z: z[:, 0], x, t, resolution=20)
    crossed = next(c for c in figure.axes[0].collections if c.get_label() == "mistake")
    assert (np.asarray(crossed.get_offsets()) == x[(x[:, 0] > 0) != t]).all()


def test_one_region_has_no_boundary():
    x, t = circles()
    figure = plots.decision_boundary(lambda z: np.ones(len(z)), x, t, resolution=20)
    assert not [c for c in figure.axes[0].collections if hasattr(c, "levels")]


def test_most_confident_mistake_comes_first():
    x, t_true, t_pred, p = random_case()
    figure = plots.misclassified(x, t_true, t_pred, p, max_images=6)
    wrong = np.flatnonzero(t_true != t_pred)
    order = wrong[np.argsort(-p[wrong, t_pred[wrong]])][:6]
    (axes,) = figure.axes
    for k, image, text in zip(order, axes.images, axes.texts, strict=True):
        assert (image.get_array().ravel() == x[k]).all()
        assert text.get_text() == f"{t_true[k]} → {t_pred[k]} ({p[k].max():.2%})"
    assert len({image.get_clim() for image in axes.images}) == 1
    assert figure.get_suptitle() == f"6 of {wrong.size} mistakes in 200 images"


def test_misclassified_without_probabilities_keeps_the_order():
    x = np.arange(36, dtype=np.uint8).reshape(3, 12)
    figure = plots.misclassified(x, [0, 1, 2], [1, 1, 0], shape=(3, 4))
    assert [text.get_text() for text in figure.axes[0].texts] == ["0 → 1", "2 → 0"]
    assert (figure.axes[0].images[1].get_array() == x[2].reshape(3, 4)).all()


def test_no_mistake_is_said():
    figure = plots.misclassified(np.zeros((3, 64)), [0, 1, 2], [0, 1, 2], np.eye(3))
    assert figure.get_suptitle() == "No mistakes in 3 images"
    assert not figure.axes[0].images


def test_weights_share_a_symmetric_scale_with_white_at_zero():
    weight = np.random.default_rng(0).normal(size=(49, 70)) + 1.0
    figure = plots.weight_images(weight)
    images = figure.axes[0].images
    assert len(images) == 64
    assert (images[5].get_array() == weight[:, 5].reshape(7, 7)).all()
    ((low, high),) = {image.get_clim() for image in images}
    assert low == -high < 0
    assert images[0].cmap(images[0].norm(0.0)) == (1, 1, 1, 1)
    assert figure.axes[1].get_ylabel() == "weight"


@pytest.mark.parametrize("value", [0.0, float("nan")])
def test_weights_without_a_scale_are_drawn(value):
    figure = plots.weight_images(np.full((64, 2), value))
    figure.draw_without_rendering()
    assert figure.axes[0].images[0].get_clim() == (-1, 1)


@pytest.mark.parametrize("folder_type", [str, None], ids=["str", "Path"])
def test_save_all_writes_pngs(tmp_path, folder_type):
    image = pytest.importorskip("PIL.Image", reason="pillow is not installed (extra: examples)")
    x, t_true, t_pred, p = random_case()
    folder = tmp_path / "new" / "folder"
    paths = plots.save_all(
        folder_type(folder) if folder_type else folder,
        history=HISTORY,
        t_true=t_true,
        t_pred=t_pred,
        x=x,
        probabilities=p,
        weight=np.ones((64, 12)),
    )
    names = ["learning_curves", "confusion_matrix", "misclassified", "first_layer_weights"]
    assert paths == [folder / f"{name}.png" for name in names]
    assert sorted(folder.iterdir()) == sorted(paths)
    for path in paths:
        with image.open(path) as png:
            png.load()
            assert png.format == "PNG"
            assert 300 < png.width < 2500
            assert 300 < png.height < 2500
            assert np.asarray(png.convert("L")).std() > 5, f"{path.name} is as good as empty"


@pytest.mark.parametrize("n_features", [13, 16, 63])
def test_save_all_draws_no_images_of_a_table(tmp_path, n_features):
    x, t_true, t_pred, p = random_case(n_features=n_features)
    weight = np.ones((n_features, 4))
    paths = plots.save_all(tmp_path, history=HISTORY, t_true=t_true, t_pred=t_pred, x=x, probabilities=p, weight=weight)
    assert [path.name for path in paths] == ["learning_curves.png", "confusion_matrix.png"]


def test_save_all_writes_nothing_if_an_argument_is_wrong(tmp_path):
    with pytest.raises(ValueError, match="probabilities"):
        plots.save_all(
            tmp_path / "new", history=HISTORY, t_true=[0, 1], t_pred=[1, 1], x=np.ones((2, 64)), probabilities=[1]
        )
    assert not (tmp_path / "new").exists()


def test_no_text_lies_on_another():
    x, t_true, t_pred, p = random_case(400)
    same = {key: [0.9, 0.95] for key in HISTORY}
    figures = [
        plots.learning_curves(HISTORY),
        plots.learning_curves(same),
        plots.confusion_matrix(t_true, t_pred),
        plots.confusion_matrix(t_true % 3, t_pred % 3, class_names=["setosa", "versicolor", "virginica"]),
        plots.misclassified(x, t_true, t_pred, p),
        plots.weight_images(np.eye(784)[:, :100]),
        plots.learning_curves({**{key: [[0.9, 0.8]] * 3 for key in HISTORY}, "epoch_seconds": [1.0] * 3}),
        plots.calibration(t_true, p),
        plots.calibration(t_true % 2, p[:, 0]),
        plots.decision_boundary(lambda z: z, *circles(), class_names=["setosa", "versicolor"], resolution=20),
        plots.decision_boundary(lambda z: 1e-6 * z[:, 0], circles()[0] * 1e6, circles()[1], resolution=20),
    ]
    for figure in figures:
        assert overlapping(figure) == []


def test_drawing_needs_no_pyplot_and_leaves_settings_alone():
    code = """
import sys
import portnn.plots
assert "matplotlib" not in sys.modules, "imported too early"
import matplotlib
matplotlib.rcParams["font.size"] = 17
before = matplotlib.rcParams.copy()
figure = portnn.plots.learning_curves({"loss": [1.0, 0.5]})
assert figure.get_suptitle()
portnn.plots.confusion_matrix([0, 1], [0, 1])
portnn.plots.misclassified([[0, 1, 1, 0]], [0], [1])
portnn.plots.weight_images([[1.0], [0.0], [0.0], [1.0]])
portnn.plots.calibration([0, 1], [[0.9, 0.1], [0.2, 0.8]])
portnn.plots.decision_boundary(lambda x: x, [[0.0, 1.0], [1.0, 0.0]], [0, 1], resolution=9)
assert matplotlib.rcParams.copy() == before
assert "matplotlib.pyplot" not in sys.modules, "pyplot keeps figures alive"
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_missing_matplotlib_names_the_cure(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.style", None)
    with pytest.raises(ImportError, match=r"learning_curves: .*pip install matplotlib$"):
        plots.learning_curves({"loss": [1.0]})


def sure(points):
    """What ``predict_proba(points)[:, 1]`` may be."""
    return 1.0 / (1.0 + np.exp(-points[:, 0]))


X = np.ones((2, 64))
ERRORS = [
    (plots.learning_curves, [{}], {}, r'learning_curves: history\["loss"\] has shape \(0,\)'),
    (plots.learning_curves, [{"loss": [[[1.0]]]}], {}, r'"loss"\] has shape \(1, 1, 1\), expected'),
    (plots.learning_curves, [{"loss": [1.0, 2.0], "val_loss": [1.0]}], {}, r'"val_loss"\] has shape \(1,\), .*\(2,\)'),
    (plots.confusion_matrix, [[], []], {}, r"t_true has shape \(0,\), expected \(batch,\)"),
    (plots.confusion_matrix, [0, 0], {}, r"t_true has shape \(\), expected \(batch,\)"),
    (plots.confusion_matrix, [[0, 1], np.eye(2)], {}, r"t_pred has shape \(2, 2\), expected \(2,\)"),
    (plots.confusion_matrix, [[0, 1], [0, 1, 1]], {}, r"t_pred has shape \(3,\), expected \(2,\)"),
    (plots.confusion_matrix, [[0, 1], [0.0, 1.0]], {}, "t_pred has dtype float64, expected integer labels"),
    (plots.confusion_matrix, [["a"], ["b"]], {}, "t_true has dtype <U1, expected integer labels"),
    (plots.confusion_matrix, [[0, -1], [0, 1]], {}, "t_true has a negative label"),
    (plots.confusion_matrix, [[0, 2], [0, 1]], {"n_classes": 2}, "labels reach 2 .* labels below 2"),
    (plots.confusion_matrix, [[0, 1], [0, 1]], {"n_classes": 3, "class_names": ["a", "b"]}, "2 names, .* = 3"),
    (plots.misclassified, [np.ones(64), [0], [1]], {}, r"x has shape \(64,\), expected \(batch, n_features\)"),
    (plots.misclassified, [X, [0], [1]], {}, r"t_true has shape \(1,\), expected \(2,\)"),
    (plots.misclassified, [X[:, :63], [0, 1], [1, 1]], {}, r"shape \(7, 7\), .* = 63 features"),
    (plots.misclassified, [X, [0, 1], [1, 1]], {"shape": (8, 9)}, r"shape \(8, 9\), .* = 64 features"),
    (plots.misclassified, [X, [0, 1], [1, 1]], {"max_images": 0}, "cannot draw 0 images"),
    (plots.misclassified, [X, [0, 1], [1, 2], np.ones((2, 2))], {}, r"probabilities has shape \(2, 2\), .* label 2"),
    (plots.learning_curves, [{"loss": [[1.0]], "val_loss": [[1.0]] * 2}], {}, r'"val_loss"\] has shape \(2, 1\)'),
    (
        plots.class_report,
        [[0, 2], [0, 1]],
        {"class_names": ["a", "b"]},
        "labels reach 2, expected 3 class_names, got 2",
    ),
    (plots.calibration, [[0, 1], np.ones((3, 2))], {}, r"t_true has shape \(2,\), expected \(3,\)"),
    (plots.calibration, [[0, 2], np.ones((2, 2))], {}, r"probabilities has shape \(2, 2\), .* above the label 2"),
    (plots.calibration, [[0, 2], np.ones(2)], {}, r"probabilities has shape \(2,\), .*or for two classes"),
    (plots.calibration, [[0, 1], [[-1.0, 2.0]] * 2], {}, r"fractions in \[0, 1\]; take the softmax"),
    (plots.calibration, [[0, 1], [[np.nan, 0.0]] * 2], {}, r"fractions in \[0, 1\]"),
    (
        plots.calibration,
        [[0, 1], [[1.0, 0.0], [0.06, 0.04]]],
        {},
        "row 1 of probabilities adds up to 0.1, expected 1; ",
    ),
    (plots.calibration, [[0, 1], np.eye(2)], {"n_bins": 0}, "n_bins must be at least 1, got 0"),
    (plots.decision_boundary, [len, np.ones((2, 3)), [0, 1]], {}, r"x has shape \(2, 3\), expected \(batch, 2\)"),
    (plots.decision_boundary, [len, [[0.0, np.nan]], [0]], {}, "all finite"),
    (plots.decision_boundary, [len, X[:, :2], [0]], {}, r"t has shape \(1,\), expected \(2,\)"),
    (plots.decision_boundary, [len, X[:, :2], [0, 1]], {}, r"predict gave shape \(\) for 2 points"),
    (plots.decision_boundary, [lambda z: z * np.nan, X[:, :2], [0, 1]], {}, "predict gave a NaN"),
    (plots.decision_boundary, [lambda z: np.ones(len(z), int), X[:, :2], [0, 1]], {}, "labels, .*; use predict_proba"),
    (plots.decision_boundary, [lambda z: z[:, 0] > 0, X[:, :2], [0, 1]], {}, "predict gave labels, expected logits or"),
    (
        plots.decision_boundary,
        [sure, X[:, :2] * [[1], [-1]], [0, 1]],
        {},
        "like the probability of class 1, .*predict_pro",
    ),
    (plots.decision_boundary, [lambda z: z, X[:, :2], [0, 1]], {"resolution": 1}, "resolution must be at least 2"),
    (plots.decision_boundary, [lambda z: z, X[:, :2], [0, 9]], {}, "at most 8 classes"),
    (plots.decision_boundary, [lambda z: z, X[:, :2], [0, 2]], {"class_names": "ab"}, "labels reach 2, .* below 2"),
    (plots.weight_images, [np.ones(64)], {}, r"weight has shape \(64,\), expected \(in_features, out_features\)"),
    (plots.weight_images, [np.ones((64, 0))], {}, r"weight has shape \(64, 0\)"),
    (plots.weight_images, [np.ones((10, 64))], {}, r"shape \(3, 3\), .* = 10 features"),
]


@pytest.mark.parametrize(("draw", "args", "options", "message"), ERRORS)
def test_errors_are_one_line(draw, args, options, message):
    with pytest.raises(ValueError, match=message) as caught:
        draw(*args, **options)
    text = str(caught.value)
    assert text.startswith(f"{draw.__name__}: ")
    assert "\n" not in text
    assert len(text) < 500


def test_a_ring_leaves_the_marker_of_the_true_class_to_be_seen():
    x = np.asarray([[-1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])
    axes = plots.decision_boundary(lambda p: p[:, :1], x, [0, 1, 0]).axes[0]
    ring = axes.collections[-1]
    assert ring.get_label() == "mistake"
    np.testing.assert_array_equal(np.asarray(ring.get_offsets()), x[2:])
    assert len(ring.get_facecolors()) == 0, "it is hollow"
    assert min(ring.get_sizes()) > 3 * max(axes.collections[-2].get_sizes())


@pytest.mark.parametrize("n", [3, 12, 15, 25])
def test_mistakes_have_no_empty_strip_below(n):
    figure = plots.misclassified(random_case(n)[0], np.zeros(n, int), np.ones(n, int))
    figure.set_dpi(100)
    canvas = backend_agg.FigureCanvasAgg(figure)
    canvas.draw()
    ink = np.asarray(canvas.buffer_rgba())[:, :, :3].min(axis=(1, 2)) < 200
    below = len(ink) - 1 - np.flatnonzero(ink)[-1]
    assert 2 <= below <= 25, f"{below / 100} inches"


@pytest.mark.parametrize(
    ("names", "turned"),
    [
        (["setosa", "versicolor", "virginica"], False),
        (["a name that is very long", "b", "c"], True),
        ([f"class {k}" for k in range(12)], True),
        ([f"c {k}" for k in range(12)], False),
    ],
)
def test_names_are_turned_only_where_they_do_not_fit(names, turned):
    k = np.arange(len(names))
    figure = plots.confusion_matrix(k, k, class_names=names)
    figure.draw_without_rendering()
    labels = figure.axes[0].get_xticklabels()
    assert {label.get_rotation() for label in labels} == {40.0 if turned else 0.0}
    if not turned:
        boxes = [label.get_window_extent() for label in labels]
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


def test_the_counts_of_the_confusion_matrix_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    _, t, p, _ = random_case(n_classes=4)
    np.testing.assert_array_equal(shown_counts(plots.confusion_matrix(t, p), 4), metrics.confusion_matrix(t, p))
