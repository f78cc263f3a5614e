"""The settings of the published recipes are frozen here, and a recipe of one's own is read with clear errors."""

import pytest

from seresnet.errors import ConfigError
from seresnet.models.count import count_parameters
from seresnet.models.variants import VARIANTS, build
from seresnet.recipes import RECIPES, recipe
from seresnet.training.config import TrainConfig
from seresnet.training.optim import parameter_groups
from seresnet.weights.index import entries

# What the sources say, not what the recipes happen to hold.
PUBLISHED = {
    # arXiv 1709.01507; github.com/hujie-frank/SENet, "Augmentation"; the published index of the weights
    "imagenet-2018": {
        "epochs": 100,
        "global_batch_size": 1024,
        "optimizer": "sgd",
        "momentum": 0.9,
        "nesterov": False,
        "lr": 0.6,
        "schedule": "step",
        "step_epochs": (30, 60, 90),
        "step_gamma": 0.1,
        "weight_decay": 1e-4,
        "loss": "cross_entropy",
        "label_smoothing": 0.1,
        "drop_rate": 0.2,
        "crop_scale": (0.08, 1.0),
        "hflip": 0.5,
        "rotation": 10.0,
        "pixel_noise": 20,
        "size": 224,
        "crop_pct": 0.875,
        "mixup": 0.0,
        "cutmix": 0.0,
        "ema_decay": None,
    },
    # arXiv 1709.01507: dropout and label smoothing are mentioned for SENet-154 only
    "imagenet-2018-paper": {
        "epochs": 100,
        "global_batch_size": 1024,
        "lr": 0.6,
        "label_smoothing": 0.0,
        "drop_rate": 0.0,
        "zero_init_last": False,
    },
    # arXiv 2110.00476, table 2, column A2
    "imagenet-modern": {
        "epochs": 300,
        "train_size": 224,
        "global_batch_size": 2048,
        "optimizer": "lamb",
        "lr": 5e-3,
        "schedule": "cosine",
        "weight_decay": 0.02,
        "decay_norms": False,
        "warmup_epochs": 5.0,
        "label_smoothing": 0.0,
        "drop_path_rate": 0.05,
        "clip_grad": None,
        "hflip": 0.5,
        "rand_augment": 7.0,
        "repeated_aug": 3,
        "random_interpolation": True,
        "mixup": 0.1,
        "cutmix": 1.0,
        "random_erasing_prob": 0.0,
        "loss": "bce",
    },
    # arXiv 1512.03385, section 4.2: 64,000 steps of 128 of 50,000 images are 164 epochs, 32,000 and 48,000 82 and 123
    "cifar100": {
        "epochs": round(64_000 / (50_000 // 128)),
        "step_epochs": (round(32_000 / (50_000 // 128)), round(48_000 / (50_000 // 128))),
        "global_batch_size": 128,
        "lr": 0.1,
        "momentum": 0.9,
        "weight_decay": 1e-4,
        "pad": 4,
        "hflip": 0.5,
        "schedule": "step",
        "step_gamma": 0.1,
    },
    "cifar10": {"global_batch_size": 128, "lr": 0.1, "momentum": 0.9, "pad": 4, "hflip": 0.5},
}


def test_the_networks_of_the_cifar_recipes_differ_from_the_papers_as_their_docstring_says():
    """Counted on the networks: the paper's reduction of 16 everywhere, and the width of at least 8 used here."""
    counts = [count_parameters(build("seresnet110", squeeze_divisor=divisor)) for divisor in (8, 1)]
    text = RECIPES["cifar100"].__doc__
    assert all(f"{count:,}" in text for count in counts)


def test_the_papers_recipe_differs_from_the_index_in_three_settings():
    index, paper = recipe("imagenet-2018").to_dict(), recipe("imagenet-2018-paper").to_dict()
    assert {key for key in index if index[key] != paper[key]} == {
        "drop_rate",
        "label_smoothing",
        "zero_init_last",
    }


def test_accuracies_in_docstrings_are_those_of_the_index():
    """The figures of timm's results table that imagenet-modern names."""
    text = RECIPES["imagenet-modern"].__doc__
    for name, row in (("seresnet50.a2_in1k", 1), ("seresnet50.a2_in1k", 0), ("seresnet50.a1_in1k", 1)):
        assert f"{entries()[name].results[row].top1:.2f} %" in text
    assert f"{entries()['seresnet50.a3_in1k'].results[1].top1:.2f} % at 224" in text
    assert f"{entries()['legacy_seresnet50.in1k'].top1:.2f} %" in RECIPES["imagenet-2018"].__doc__


def test_the_classifiers_rate_is_as_many_times_the_last_stages_as_finetune_says():
    config = recipe("finetune")
    model = build("seresnet20")
    groups = parameter_groups(model, config)
    scale = {id(p): group["lr_scale"] for group in groups for p in group["params"]}
    ratio = scale[id(model.fc.weight)] / scale[id(model.layer3[0].conv1.weight)]
    assert f"{ratio:.1f} times the last stage's" in RECIPES["finetune"].__doc__


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_settings(name):
    config = recipe(name).to_dict()
    assert {key: config[key] for key in PUBLISHED[name]} == PUBLISHED[name]
    assert config["model"] in VARIANTS
    assert not config["pretrained"]


@pytest.mark.parametrize(("name", "batch", "rate"), [("imagenet-2018", 256, 0.15), ("imagenet-modern", 512, 0.0025)])
def test_the_rate_of_a_smaller_batch(name, batch, rate):
    assert recipe(name).updated({"global_batch_size": batch}).peak_lr == pytest.approx(rate)


def test_a_docstring_says_what_was_run_and_from_where():
    for name, function in RECIPES.items():
        text = function.__doc__
        assert f"--recipe {name}" in text
        if name.startswith(("imagenet", "cifar100")):
            assert "not run here" in text
            assert "published" in text.lower()
            assert "Source: " in text


def write(folder, text: str):
    path = folder / "mine.py"
    path.write_text(text)
    return path


def test_a_recipe_of_ones_own(tmp_path):
    path = write(
        tmp_path,
        "from __future__ import annotations\n"
        "from dataclasses import dataclass\n"
        "from seresnet.recipes import recipe\n"
        "@dataclass\n"
        "class Size:\n"
        "    pixels: int\n"
        "def small():\n"
        "    return recipe('finetune').updated({'size': Size(48).pixels})\n",
    )
    assert recipe(f"{path}:small") == recipe("finetune").updated({"size": 48})


@pytest.mark.parametrize(
    ("text", "function", "message"),
    [
        (None, ":f", r"mine\.py: no such file"),
        ("def g(): pass", ":f", r"mine\.py: has no function 'f'; it has: g"),
        ("import os\nfrom seresnet.recipes import recipe", ":f", r"no function 'f'; it defines none"),
        ("def g(): pass", "", r"mine\.py: which function\? it has: g"),
        ("f = 3", ":f", r"has no function 'f'"),
        ("def f(): return {'lr': 1}", ":f", r"f returns dict, not a seresnet.training.config.TrainConfig"),
        ("\ndef f(:\n", ":f", r"mine\.py, line 2: SyntaxError: "),
        ("import no_such_module", ":f", r"mine\.py, line 1: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    return 1 / 0", ":f", r"mine\.py, line 2: ZeroDivisionError: division by zero"),
        ("def f(x):\n    return x", ":f", r"TypeError: f\(\) missing 1 required positional argument"),
        (
            "from seresnet.training.config import TrainConfig\ndef f():\n    return TrainConfig(epochs=0)",
            ":f",
            r"mine\.py, line 3: ConfigError: epochs is 0, which trains nothing",
        ),
    ],
)
def test_a_fault_in_it_is_one_line_that_names_the_place(tmp_path, text, function, message):
    path = tmp_path / "mine.py" if text is None else write(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as error:
        recipe(f"{path}{function}")
    assert "\n" not in str(error.value)


def test_unknown_names_get_a_hint():
    with pytest.raises(ConfigError, match="did you mean imagenet-2018"):
        recipe("imagenet2018")
    with pytest.raises(ConfigError, match=r"there are: .*and FILE.py:function"):
        recipe("zzz")
    assert isinstance(recipe("debug"), TrainConfig)
