"""The state of a run comes back as it was; anything else is refused before the run is touched."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

import seresnet
from seresnet.errors import SeresnetError
from seresnet.training.checkpoint import check_same_optimizer, check_same_tensors, load_state, save_state
from seresnet.training.state import TrainState
from tests.weights.nets import small


@pytest.fixture
def state() -> dict[str, object]:
    model = small()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    model(torch.zeros(2, 3, 32, 32)).sum().backward()
    optimizer.step()
    return {
        "fingerprint": {"model": "seresnet20", "classes": ["ant", "bee"], "input_size": [3, 32, 32]},
        "config": {"epochs": 3, "lr": 0.1, "model": "seresnet20"},
        "state": asdict(TrainState(epoch=1, step=7, loss_sum=0.5)),
        "rows": [{"epoch": 1, "val_top1": 0.5}],
        "model": model.state_dict(),
        "ema": None,
        "optimizer": optimizer.state_dict(),
    }


def test_a_state_comes_back_bit_for_bit_and_outlives_its_file(state, tmp_path) -> None:
    path = tmp_path / "state.pt"
    save_state(state, path)
    loaded = load_state(path)
    path.write_bytes(bytes(path.stat().st_size))
    plain = ("fingerprint", "config", "state", "rows", "ema")
    assert {key: loaded[key] for key in plain} == {key: state[key] for key in plain}
    assert all(torch.equal(loaded["model"][key], value) for key, value in state["model"].items())
    momenta = [entry["momentum_buffer"] for entry in loaded["optimizer"]["state"].values()]
    expected = [entry["momentum_buffer"] for entry in state["optimizer"]["state"].values()]
    assert all(torch.equal(one, other) for one, other in zip(momenta, expected, strict=True))
    assert loaded["optimizer"]["param_groups"] == state["optimizer"]["param_groups"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: {}, "it lacks fingerprint, config"),
        (lambda state: [], "it holds a list"),
        (lambda state: torch.zeros(2), "it holds a Tensor"),
        (lambda state: {"model": {}}, "it lacks fingerprint"),
        (lambda state: state["model"], "it lacks fingerprint"),
        (lambda state: {**state, "optimizer": None}, "its optimizer is a NoneType"),
        (lambda state: {**state, "optimizer": {}}, "its optimizer has no state"),
        (lambda state: {**state, "state": {"epoch": 1}}, "does not describe the progress"),
        (lambda state: {**state, "state": {**state["state"], "epoch": "x"}}, "does not describe the progress"),
        (
            lambda state: {**state, "state": {**state["state"], "loss_sum": float("nan")}},
            "does not describe the progress",
        ),
        (lambda state: {**state, "state": {**state["state"], "step": -5}}, "negative or huge"),
        (lambda state: {**state, "state": {**state["state"], "epoch": 10**12 * 10**6}}, "negative or huge"),
        (lambda state: {**state, "rows": [None]}, "its rows are not those"),
        (lambda state: {**state, "rows": [{"epoch": [1]}]}, "its rows are not those"),
    ],
)
def test_what_is_no_state_is_refused(change, reason: str, state, tmp_path) -> None:
    torch.save(change(state), path := tmp_path / "state.pt")
    with pytest.raises(SeresnetError) as raised:
        load_state(path)
    message = str(raised.value)
    assert reason in message and "nothing was changed" in message and message.isprintable()


def test_damaged_and_hostile_states_are_refused_by_the_one_reader(tmp_path) -> None:
    path = tmp_path / "state.pt"
    for content, reason in (
        (b"", "the file is empty"),
        (b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.", "nested more than 100 deep"),
        (b"hello", "not a weights file"),
    ):
        path.write_bytes(content)
        with pytest.raises(SeresnetError, match=reason):
            load_state(path)
    with pytest.raises(SeresnetError, match="no checkpoint to resume from"):
        load_state(Path("nowhere/state.pt"))


def test_a_state_is_not_taken_for_a_model(state, tmp_path) -> None:
    """It does not hold the preprocessing of the run: the model directories beside it do."""
    save_state(state, path := tmp_path / "state.pt")
    with pytest.raises(SeresnetError, match=r"training state of a run, .* give the model directory of the run"):
        seresnet.create_model(path, pretrained=True)


def test_tensors_of_another_network_are_named(state) -> None:
    model = small()
    check_same_tensors(state, model, Path("state.pt"))
    with pytest.raises(SeresnetError, match=r"holds other tensors than this network \(fc\.weight, fc\.bias"):
        check_same_tensors(state, small(num_classes=3), Path("state.pt"))
    for wrong in ({}, OrderedDict(list(state["model"].items())[1:]), {"fc.weight": 3}):
        with pytest.raises(SeresnetError, match="holds other tensors"):
            check_same_tensors({**state, "ema": wrong}, model, Path("state.pt"))


def with_entry(state, **entry) -> dict[str, object]:
    """Return the state with an entry of the first parameter's momentum changed."""
    optimizer = state["optimizer"]
    states = {**optimizer["state"], 0: {**optimizer["state"][0], **entry}}
    return {**state, "optimizer": {**optimizer, "state": states}}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda state: with_entry(state, momentum_buffer=torch.zeros(3)), "of another shape"),
        (lambda state: with_entry(state, momentum_buffer=torch.full((16, 3, 3, 3), float("nan"))), "NaN or infinity"),
        (lambda state: with_entry(state, momentum_buffer="x"), "holds a str"),
        (lambda state: {**state, "optimizer": {**state["optimizer"], "state": "x"}}, "not a mapping"),
        (lambda state: {**state, "optimizer": {**state["optimizer"], "state": {10_000: {}}}}, "that there are not"),
        (lambda state: {**state, "optimizer": {**state["optimizer"], "param_groups": None}}, "no parameter groups"),
        (lambda state: {**state, "optimizer": {**state["optimizer"], "param_groups": []}}, "of other parameters"),
    ],
)
def test_an_optimizer_state_that_does_not_fit_is_refused(change, reason: str, state) -> None:
    optimizer = torch.optim.SGD(small().parameters(), lr=0.1, momentum=0.9)
    check_same_optimizer(state, optimizer, Path("state.pt"))
    with pytest.raises(SeresnetError, match=reason):
        check_same_optimizer(change(state), optimizer, Path("state.pt"))
