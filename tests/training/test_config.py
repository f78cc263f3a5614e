"""Settings are read by their type, and a wrong one is named with what it takes."""

import json

import pytest

from seresnet.errors import ConfigError
from seresnet.recipes import RECIPES, recipe
from seresnet.training.config import TrainConfig, parse_settings, read_config


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("lr=1e-3", 1e-3),
        ("lr=1", 1.0),
        ("epochs=3", 3),
        ("ema_decay=none", None),
        ("compile=true", True),
        ("crop_scale=[0.2, 1]", (0.2, 1.0)),
        ("step_epochs=5", (5,)),
        ("schedule=step", "step"),
        ("model=101", "101"),
        ("size=none", None),
        ("freeze_bn=auto", "auto"),
        ("freeze_bn=true", True),
        ("class_weights=balanced", "balanced"),
        ("class_weights=none", None),
        ("patience=5", 5),
    ],
)
def test_text_is_read_by_type(text, value):
    settings = parse_settings([text])
    got = getattr(TrainConfig().updated(settings), next(iter(settings)))
    assert got == value
    assert type(got) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate=1", "no setting is called 'learning_rate'"),
        ("epoch=1", "did you mean epochs"),
        ("epochs=many", "epochs cannot be 'many': it takes a whole number"),
        ("epochs=1.5", "it takes a whole number"),
        ("epochs=0", "epochs is 0, which trains nothing: give 1 or more, or linear_probe=true as well"),
        ("epochs=true", "it takes a whole number"),
        ("compile=2", "true or false"),
        ("schedule=linear", "cosine or step"),
        ("crop_scale=[1]", "a list like"),
        ("crop_scale=[1, 0.5]", "the smaller fraction"),
        ("lr=nan", "lr cannot be 'nan'"),
        ("grad_accum_steps=3", "not a multiple of grad_accum_steps 3"),
        ("lr=&a [*a, *a, *a]", "lr cannot be"),
        ("seed=" + "9" * 5000, "seed cannot be"),
        ("freeze_bn=maybe", "it takes true or false or auto"),
        ("optimizer=adam", "sgd or lamb"),
        ("patience=0", "patience cannot be '0': it takes a whole number from 1 to 100000 or none"),
    ],
)
def test_wrong_settings_say_what_to_do(text, message):
    with pytest.raises(ConfigError, match="(?i)" + message.replace("(", r"\(")) as error:
        TrainConfig().updated(parse_settings([text]))
    assert "\n" not in str(error.value)


def test_set_needs_a_key_and_a_value():
    with pytest.raises(ConfigError, match="key=value"):
        parse_settings(["lr"])


def test_every_recipe_gives_settings_and_says_how_it_is_run():
    for name, function in RECIPES.items():
        assert isinstance(recipe(name), TrainConfig)
        assert f"--recipe {name}" in function.__doc__
    with pytest.raises(ConfigError, match="did you mean cifar10"):
        recipe("cifar")


def test_settings_survive_json():
    config = TrainConfig(step_epochs=(1, 2), mean=(0.1, 0.2, 0.3))
    assert TrainConfig().updated(json.loads(json.dumps(config.to_dict()))) == config


def test_the_manual_names_every_setting():
    from dataclasses import fields
    from pathlib import Path

    manual = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    table = manual.split("## Settings")[1].split("## Stopping")[0]
    assert [field.name for field in fields(TrainConfig) if f"`{field.name}`" not in table] == []


def test_a_config_file_is_read_back(tmp_path):
    config = recipe("finetune").updated({"size": 64, "class_weights": "balanced", "freeze_bn": True})
    path = tmp_path / "config.json"
    extras = {"data": "some/folder", "precision_used": "float32", "lr_used": 0.1}
    path.write_text(json.dumps(config.to_dict() | extras))
    assert read_config(path) == (config, "some/folder")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read"),
        ("{", "is not JSON"),
        ("[1]", "is not a run's config.json"),
        ('{"architecture": "seresnet20"}', "is not a run's config.json"),
        ('{"data": "x", "model": "seresnet20", "lr": "fast"}', "lr cannot be 'fast'"),
        ('{"data": "x", "model": "seresnet20", "learning": 1}', "no setting is called 'learning'"),
    ],
)
def test_a_file_that_is_no_config_is_named(tmp_path, text, message):
    path = tmp_path / "config.json"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ConfigError, match=message) as error:
        read_config(path)
    assert str(path) in str(error.value)
