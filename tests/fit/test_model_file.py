from dataclasses import replace

import numpy as np
import pytest
import torch

from torch_manual_bp.fit import Model, Settings, Training, load_model
from torch_manual_bp.fit.prepare import split_rows

SMALL = Settings(hidden=16, epochs=60, batch_size=8, activation="tanh", output_bias=False)


@pytest.fixture
def trained(any_data):
    training = Training(any_data, SMALL, compare=False)
    for _ in training.steps():
        pass
    return training, Model.trained(training.mlp, any_data, training.data)


@pytest.fixture
def saved(trained, tmp_path):
    path = tmp_path / "model.pt"
    path.write_bytes(trained[1].to_bytes())
    return path


def test_a_model_reads_back_to_the_bit(trained, saved):
    training, model = trained
    loaded = load_model(saved)
    assert (loaded.task, loaded.features, loaded.outputs) == (model.task, model.features, model.outputs)
    assert (loaded.mlp.activation, loaded.mlp.fc2.bias) == ("tanh", None)
    x = training.dataset.x
    assert loaded.predict(x).tobytes() == model.predict(x).tobytes()


def test_prediction_of_unscaled_rows_scores_as_training_said(trained):
    """The scaling goes with the weights: on the held-out rows as they came the score is the one reported."""
    training, model = trained
    data = training.dataset
    _, out = split_rows(data, SMALL.held_out, SMALL.seed)
    predicted, y = model.predict(data.x[out]), data.y[out]
    if data.task == "classification":
        score = (predicted.argmax(1) == y).mean()
        np.testing.assert_allclose(predicted.sum(1), 1, rtol=1e-12)
    elif data.task == "multilabel":
        score = ((predicted > 0.5) == (y > 0.5)).mean()
    else:
        unit = model.y_scale.spread
        score = 1 - (((predicted - y) / unit) ** 2).sum() / (((y - y.mean(0)) / unit) ** 2).sum()
    assert score == pytest.approx(training.learners[0].curve.scores[-1], abs=1e-5)


def test_float64_stays_float64(blobs, tmp_path):
    training = Training(blobs, replace(SMALL, dtype="float64"), compare=False)
    path = tmp_path / "model.pt"
    path.write_bytes(Model.trained(training.mlp, blobs, training.data).to_bytes())
    assert load_model(path).mlp.fc1.weight.dtype is torch.float64


@pytest.mark.parametrize("shape", [(4,), (4, 99)])
def test_features_of_another_shape_are_refused(trained, shape):
    with pytest.raises(ValueError, match=r"Model.predict: x must have shape \(N, \d\), got \(4,"):
        trained[1].predict(np.zeros(shape))


NOT_MODELS = {
    "empty": b"",
    "text": b"hello, world",
    "cut off": b"PK\x03\x04",
}


@pytest.mark.parametrize("content", NOT_MODELS.values(), ids=NOT_MODELS)
def test_what_is_no_model_is_refused(tmp_path, content):
    path = tmp_path / "model.pt"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pt: expected a model file written by training"):
        load_model(path)


def test_no_bit_of_a_weight_may_fall_over(trained, saved):
    """torch.load looks at no checksum: the prediction would be another one, and nobody the wiser."""
    content = bytearray(saved.read_bytes())
    content[content.index(trained[1].mlp.fc1.weight.detach().numpy().tobytes())] ^= 1
    saved.write_bytes(content)
    with pytest.raises(ValueError, match=r"model.pt: expected a model file written by training, got something else"):
        load_model(saved)


class Evil:
    def __reduce__(self):
        return print, ("code from a file was run",)


OTHER_CONTENT = {
    "a list": ([1, 2], "got a list"),
    "code": ({"format": 1, "task": Evil()}, "got something else"),
    "a later format": ({"format": 2}, "expected a model of format 1, got format 2"),
    "a state_dict": ({"fc1.weight": torch.zeros(2)}, "expected a model of format 1, got format None"),
    "damaged": ({"format": 1, "config": {}}, "got a damaged one"),
}


@pytest.mark.parametrize(("content", "message"), OTHER_CONTENT.values(), ids=OTHER_CONTENT)
def test_other_content_is_refused_and_never_run(tmp_path, content, message, capsys):
    path = tmp_path / "model.pt"
    torch.save(content, path)
    with pytest.raises(ValueError, match=message):
        load_model(path)
    assert capsys.readouterr().out == ""


def test_a_missing_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.pt")
