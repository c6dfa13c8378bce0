"""A run that is stopped and gone on with is held, bit by bit, against the same run without a stop."""

import zipfile
from dataclasses import replace

import pytest
import torch

from torch_manual_bp.fit import PATHS, Dataset, Settings, Training, checkpoint
from torch_manual_bp.fit.model_file import Model

SMALL = Settings(hidden=8, epochs=3, batch_size=8)  # six steps an epoch for the 45 rows to train on
ENVIRONMENT = {"torch": "2", "threads": 1}


def make(training, steps):
    """Make so many of the steps that are left."""
    for _, _ in zip(range(steps), training.steps(), strict=False):
        pass
    return training


def carried(training, folder, seconds=1.5):
    """The same run in the hands of another process."""
    path = folder / "checkpoint.pt"
    path.write_bytes(checkpoint.to_bytes(training, seconds, ENVIRONMENT))
    other = Training(training.dataset, training.settings, compare=len(training.learners) > 1)
    assert checkpoint.restore(other, path) == (seconds, ENVIRONMENT)
    return other


def assert_same(a, b):
    assert a.gradients == b.gradients
    for one, other in zip(a.learners, b.learners, strict=True):
        assert one.curve.losses == other.curve.losses
        assert one.curve.scores == other.curve.scores
        assert len(one.curve.seconds) == len(other.curve.seconds)
        for name, value in one.mlp.state_dict().items():
            assert torch.equal(value, other.mlp.state_dict()[name]), (one.name, name)


STOPS = {
    "before the first step": [0],
    "in the middle of the first epoch": [1],
    "before the end of an epoch": [5],
    "at the end of an epoch": [6],
    "in the middle of a later epoch": [15],
    "after the last step": [18],
    "twice in one epoch": [7, 2],
    "and at once again": [7, 0],
}


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stops", STOPS.values(), ids=STOPS)
def test_after_a_stop_come_the_same_bits(blobs, tmp_path, stops, path):
    settings = replace(SMALL, path=path)
    training = Training(blobs, settings)
    for steps in stops:
        training = carried(make(training, steps), tmp_path)
        assert training.steps_made <= sum(stops)
    assert training.steps_made == sum(stops)
    assert_same(make(training, 99), make(Training(blobs, settings), 99))
    assert training.steps_made == 18


@pytest.mark.parametrize(
    "options",
    [{"optimizer": "adam"}, {"optimizer": "adamw", "decoupled_decay": 0.1}, {"momentum": 0.0}, {"dtype": "float64"}],
    ids=str,
)
@pytest.mark.parametrize("compare", [True, False])
def test_whatever_is_trained(any_data, tmp_path, options, compare):
    settings = replace(SMALL, **options)
    training = make(carried(make(Training(any_data, settings, compare), 8), tmp_path), 99)
    assert_same(training, make(Training(any_data, settings, compare), 99))


def test_stopping_to_iterate_and_going_on_is_no_stop_either(blobs):
    training = make(make(Training(blobs, SMALL), 8), 99)
    assert_same(training, make(Training(blobs, SMALL), 99))


@pytest.mark.parametrize("steps", [8, 18])
def test_more_epochs_train_longer(blobs, tmp_path, steps):
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint.to_bytes(make(Training(blobs, SMALL), steps), 1.0, {}))
    longer = Training(blobs, replace(SMALL, epochs=5))
    checkpoint.restore(longer, tmp_path / "checkpoint.pt")
    straight = make(Training(blobs, replace(SMALL, epochs=5)), 99)
    assert_same(make(longer, 99), straight)  # in so short a run every step compares gradients, however many there are


def test_the_settings_say_the_learning_rate(blobs, tmp_path):
    """An lr of None and the one that it stands for are the same."""
    training = make(Training(blobs, SMALL), 8)
    (tmp_path / "checkpoint.pt").write_bytes(checkpoint.to_bytes(training, 1.0, {}))
    same = Training(blobs, replace(SMALL, lr=0.05))
    checkpoint.restore(same, tmp_path / "checkpoint.pt")
    assert same.steps_made == 8


@pytest.fixture
def path(blobs, tmp_path):
    path = tmp_path / "checkpoint.pt"
    path.write_bytes(checkpoint.to_bytes(make(Training(blobs, SMALL), 8), 1.0, ENVIRONMENT))
    return path


OTHER_SETTINGS = {
    "lr": ({"lr": 0.1}, "lr is 0.05 there, got 0.1"),
    "seed": ({"seed": 1}, "seed is 0 there, got 1"),
    "path": ({"path": "tiles"}, "path is autograd there, got tiles"),
    "two at once": ({"hidden": 9, "dtype": "float64"}, "hidden is 8 there, got 9; dtype is float32 there, got float64"),
    "fewer epochs": ({"epochs": 2}, "epochs is 3 there, got 2"),
}


@pytest.mark.parametrize(("options", "message"), OTHER_SETTINGS.values(), ids=OTHER_SETTINGS)
def test_other_settings_are_refused_by_name(blobs, path, options, message):
    training = Training(blobs, replace(SMALL, **options))
    with pytest.raises(ValueError, match=f"settings must be those of .*checkpoint.pt, but for more epochs: {message}$"):
        checkpoint.restore(training, path)
    assert_same(make(training, 99), make(Training(blobs, training.settings), 99))  # it has been left as it was


def test_to_leave_out_the_comparison_is_another_setting(blobs, path):
    with pytest.raises(ValueError, match="compare is True there, got False"):
        checkpoint.restore(Training(blobs, SMALL, compare=False), path)


def changed(data, **what):
    given = {name: getattr(data, name) for name in ("name", "x", "y", "task", "features", "outputs")}
    return Dataset(**(given | what))


OTHER_DATA = {
    "one number": lambda data: changed(data, x=data.x + (data.x == data.x[7, 1]) * 1e-12),
    "one label": lambda data: changed(data, y=(data.y + (data.y == 0) * (data.x[:, 0] == data.x[0, 0])) % 3),
    "the order of the rows": lambda data: changed(data, x=data.x[::-1], y=data.y[::-1]),
    "a feature's name": lambda data: changed(data, features=("u", "w")),
    "dtype": lambda data: changed(data, x=data.x.astype("float32")),
    "fewer rows": lambda data: changed(data, x=data.x[:50], y=data.y[:50]),
}


@pytest.mark.parametrize("other", OTHER_DATA.values(), ids=OTHER_DATA)
def test_other_data_are_refused(blobs, path, other):
    with pytest.raises(
        ValueError, match=r"data must be those of .*checkpoint.pt: blobs with x of shape \(60, 2\) .*got"
    ):
        checkpoint.restore(Training(other(blobs), SMALL), path)


def test_the_name_of_the_data_does_not_count(blobs, path):
    training = Training(changed(blobs, name="moved", x=blobs.x.copy(order="F")), SMALL)
    assert checkpoint.restore(training, path).seconds == 1.0


def test_a_missing_checkpoint_is_said_to_be_missing(blobs, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"train: resume needs a checkpoint, got no .*checkpoint.pt"):
        checkpoint.restore(Training(blobs, SMALL), tmp_path / "checkpoint.pt")


class Evil:
    def __reduce__(self):
        return print, ("code from a file was run",)


FOREIGN = {
    "a list": ([1, 2], "expected a checkpoint written by training, got a list"),
    "code": ({"checkpoint": 1, "data": Evil()}, "expected a checkpoint written by training, got something else"),
    "a later format": ({"checkpoint": 2}, "expected a checkpoint of format 1, got format 2"),
    "a state_dict": ({"fc1.weight": torch.zeros(2)}, "expected a checkpoint of format 1, got format None"),
    "parts missing": (
        {"checkpoint": 1},
        r"expected a checkpoint of format 1, got a damaged one \(KeyError\('data'\)\)",
    ),
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.values(), ids=FOREIGN)
def test_what_is_no_checkpoint_is_refused_and_never_run(blobs, path, content, message, capsys):
    torch.save(content, path)
    with pytest.raises(ValueError, match=f"checkpoint.pt: {message}"):
        checkpoint.restore(Training(blobs, SMALL), path)
    assert capsys.readouterr().out == ""


def test_a_model_is_no_checkpoint(blobs, path):
    training = Training(blobs, SMALL)
    path.write_bytes(Model.trained(training.mlp, blobs, training.data).to_bytes())
    with pytest.raises(ValueError, match="expected a checkpoint of format 1, got format None"):
        checkpoint.restore(training, path)


@pytest.mark.parametrize("left", [0, 1, 1000, -1])
def test_a_file_that_was_cut_off_is_refused(blobs, path, left):
    path.write_bytes(path.read_bytes()[:left])
    with pytest.raises(ValueError, match="expected a checkpoint written by training, got something else"):
        checkpoint.restore(Training(blobs, SMALL), path)


def test_no_bit_of_the_content_may_fall_over(blobs, path):
    """torch.load looks at no checksum: one bit of a weight would go by unseen."""
    whole = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        records = [info for info in archive.infolist() if info.file_size > 4]
    for info in records[:: len(records) // 20]:
        content = whole.index(zipfile.ZipFile(path).read(info), info.header_offset)
        path.write_bytes(whole[: content + 2] + bytes([whole[content + 2] ^ 1]) + whole[content + 3 :])
        with pytest.raises(ValueError, match="expected a checkpoint written by training, got something else"):
            checkpoint.restore(Training(blobs, SMALL), path)
        path.write_bytes(whole)
    checkpoint.restore(Training(blobs, SMALL), path)
