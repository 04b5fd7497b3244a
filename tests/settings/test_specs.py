import math
from dataclasses import fields
from typing import Any

import pytest

from nanograd.errors import UsageError
from nanograd.settings.fields import REQUIRED, Spec, flag_name, from_toml, properties, value_type
from nanograd.settings.specs import EvaluateSpec, IngestSpec, PredictSpec
from nanograd.settings.train_spec import PRESETS, TrainSpec
from scripts.write_pages import SETTINGS

CLASSES = list(SETTINGS.values())
FIELDS = [
    pytest.param(each, id=f"{class_.__name__}.{each.name}")
    for class_ in CLASSES
    for each in fields(class_)
]
GIVEN = {"model": "m", "output": "o.onnx"}


@pytest.mark.parametrize("each", FIELDS)
def test_setting_has_one_line_of_help_and_a_supported_type(each: Any) -> None:
    assert properties(each).help
    assert "\n" not in properties(each).help
    assert value_type(each) in (int, float, bool, str, tuple)
    assert flag_name(each.name).startswith("--")


@pytest.mark.parametrize("class_", CLASSES)
def test_config_is_immutable(class_: type[Spec]) -> None:
    config = class_.resolve({name: GIVEN[name] for name in required(class_)})

    with pytest.raises(AttributeError, match="cannot assign"):
        config.output = "elsewhere"  # type: ignore[attr-defined]


def required(class_: type[Spec]) -> list[str]:
    return [each.name for each in fields(class_) if each.default is REQUIRED]


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_preset_resolves_and_contains_settings_of_the_recipe_only(name: str) -> None:
    config = TrainSpec.resolve(PRESETS[name], {"preset": name})

    assert config.preset == name
    assert set(PRESETS[name]) <= set(config.identity())


def test_later_layer_overrides_earlier_ones() -> None:
    config = TrainSpec.resolve(
        {"epochs": 1, "hidden": 2, "seed": 3}, {"epochs": 7, "hidden": 193}, {"epochs": 9}
    )

    assert (config.epochs, config.hidden, config.seed) == (9, 193, 3)
    assert config.batch_size == TrainSpec().batch_size


def test_only_resolved_values_are_validated() -> None:
    config = TrainSpec.resolve({"shards": 64, "workers": 64}, {"workers": 7})

    assert (config.workers, config.shards) == (7, 64)


def test_resolve_without_layers_returns_the_defaults() -> None:
    assert TrainSpec.resolve() == TrainSpec.resolve({}, {}) == TrainSpec()


def test_unknown_setting_is_refused_and_the_known_ones_are_listed() -> None:
    with pytest.raises(UsageError, match=r"^unknown setting 'epoch'; known are .*epochs"):
        TrainSpec.resolve({"epoch": 3})


def test_explicit_epochs_override_the_least_rounds_of_a_preset() -> None:
    preset = {"preset": "accurate"}

    assert TrainSpec.resolve(preset).least_rounds == 1200
    assert TrainSpec.resolve(preset, {"epochs": 2}).least_rounds == 0
    assert TrainSpec.resolve(preset | {"epochs": 2}, {"least_rounds": 7}).least_rounds == 7


@pytest.mark.parametrize(
    ("class_", "name"), [(class_, name) for class_ in CLASSES for name in required(class_)]
)
def test_missing_setting_is_named_by_its_flag(class_: type[Spec], name: str) -> None:
    others = {each: GIVEN[each] for each in required(class_) if each != name}

    with pytest.raises(UsageError, match=rf"^{flag_name(name)} is missing: \w"):
        class_.resolve(others)


REFUSED = [
    ({"optimizer": "rmsprop"}, "--optimizer is 'rmsprop': choose sgd or momentum or adam"),
    ({"loss": "MSE"}, "--loss is 'MSE': choose mse or cross_entropy"),
    ({"preset": "slow"}, "--preset is 'slow': choose classic or fast or accurate"),
    ({"epochs": 0}, "--epochs is 0: it must be at least 1"),
    ({"shards": -1}, "--shards is -1: it must be at least 0"),
    *(
        ({"ports": ports}, f"--ports {ports} is no range A-B of ports from 1 to 65535")
        for ports in ("8000", "9-8", "0-9", "1-65536", "a-b", "-", "1-2-3", "٣-٤")
    ),
    ({"hidden": -7}, "--hidden is -7: it must be at least 1"),
    ({"seed": -1}, "--seed is -1: it must be at least 0"),
    ({"seed": 2**63}, f"--seed is {2**63}: it must be less than {2**63}"),
    ({"workers": -1}, "--workers is -1: it must be at least 0"),
    ({"learning_rate": -0.1}, "--learning-rate is -0.1: it must be at least 0"),
    ({"learning_rate": math.nan}, "--learning-rate is nan: it must be finite"),
    ({"learning_rate": math.inf}, "--learning-rate is inf: it must be finite"),
    ({"ema": math.nan}, "--ema is nan: it must be finite"),
    ({"ema": 1.0}, "--ema is 1.0: it must be less than 1"),
    ({"ema": 1}, "--ema is 1.0: it must be less than 1"),
    ({"momentum": 1.0, "optimizer": "momentum"}, "--momentum is 1.0: it must be less than 1"),
    ({"validation_split": 1.0}, "--validation-split is 1.0: it must be less than 1"),
    ({"epochs": 2.5}, "--epochs is 2.5: it must be a whole number"),
    ({"epochs": "3"}, "--epochs is '3': it must be a whole number"),
    ({"epochs": True}, "--epochs is True: it must be a whole number"),
    ({"epochs": None}, "--epochs is None: it must be a whole number"),
    ({"epochs": [3]}, "--epochs is (3,): it must be a whole number"),
    ({"learning_rate": "fast"}, "--learning-rate is 'fast': it must be a number"),
    ({"overwrite": 1}, "--overwrite is 1: it must be true or false"),
    ({"data": 7}, "--data is 7: it must be a string or a list of strings"),
    ({"data": ["a", 7]}, "--data is ('a', 7): it must be a string or a list of strings"),
    (
        {"batch_size": 7, "shards": 8},
        "--batch-size 7 is less than --shards 8: every shard needs an image per round; "
        "raise --batch-size or lower --shards",
    ),
    (
        {"workers": 9, "shards": 8},
        "--workers 9 is more than --shards 8: every worker needs a shard; "
        "lower --workers or raise --shards",
    ),
    (
        {"momentum": 0.9, "optimizer": "sgd"},
        "--momentum has no effect with --optimizer sgd; leave it out or use --optimizer momentum",
    ),
    (
        {"width": 3.0, "pixels": "unit"},
        "--width has no effect with --pixels unit; leave it out or use --pixels deskewed",
    ),
    (
        {"deskew": "after", "pixels": "unit"},
        "--deskew after has no effect with --pixels unit; leave it out or use --pixels deskewed",
    ),
    ({"ensemble": 0}, "--ensemble is 0: it must be at least 1"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_refusal_names_the_problem_and_its_fix(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError) as refusal:
        TrainSpec.resolve(values)

    assert str(refusal.value) == sentence


@pytest.mark.parametrize(
    "values",
    [
        {"batch_size": 8, "shards": 8},
        {"workers": 8, "shards": 8},
        {"workers": 0},
        {"workers": None},
        {"momentum": 0.0, "optimizer": "momentum"},
        {"seed": 2**63 - 1},
        {"ema": 0.9999},
        {"validation_split": 0.0},
        {"learning_rate": 1},
    ],
)
def test_values_at_the_bounds_are_accepted(values: dict[str, Any]) -> None:
    config = TrainSpec.resolve(values)

    assert {name: getattr(config, name) for name in values} == values


@pytest.mark.parametrize("name", ["review_share", "review_below", "max_error_rate"])
def test_share_is_at_most_one(name: str) -> None:
    assert getattr(PredictSpec.resolve({**GIVEN, name: 1}), name) == 1

    with pytest.raises(UsageError, match=r"is 1\.005: it must be at most 1$"):
        PredictSpec.resolve({**GIVEN, name: 1.005})


def test_whole_numbers_for_floats_and_lists_for_tuples_are_converted() -> None:
    trained = TrainSpec.resolve({"learning_rate": 1, "ema": 0})
    predicted = PredictSpec.resolve({**GIVEN, "keep": ["writer", "page"]})

    assert type(trained.learning_rate) is type(trained.ema) is float
    assert predicted.keep == ("writer", "page")


@pytest.mark.parametrize(
    ("class_", "values"),
    [
        (TrainSpec, {}),
        (TrainSpec, {"learning_rate": 1e-05, "workers": 0, "seed": 2**63 - 1, "ema": 0.999}),
        (TrainSpec, {"output": 'a "quoted"\\path\nüber', "overwrite": True}),
        (TrainSpec, {"data": ["mnist", "a folder"]}),
        (TrainSpec, {"output": "beyond/the/basic/plane/\N{INPUT SYMBOL FOR NUMBERS}"}),
        (TrainSpec, {"momentum": 0.1 + 0.2, "optimizer": "momentum"}),
        (IngestSpec, {"output": "s3://bucket/rows"}),
        (PredictSpec, {**GIVEN, "keep": ("a", "b"), "label_column": "digit"}),
        (EvaluateSpec, {"model": "m", "verbose": True}),
    ],
)
def test_settings_survive_a_round_trip_through_toml(
    class_: type[Spec], values: dict[str, Any]
) -> None:
    config = class_.resolve(values)

    again = class_.resolve(from_toml(config.to_toml(), "config.toml"))

    assert again == config


def test_toml_has_a_line_for_every_setting_that_is_not_none() -> None:
    lines = TrainSpec(workers=2).to_toml().splitlines()

    unset = {"address", "output", "image_column", "label_column", "test_split", "mlflow", "ports"}
    names = [each.name for each in fields(TrainSpec) if each.name not in unset]
    assert [line.split(" = ")[0] for line in lines] == names


def test_one_data_set_is_a_string_in_toml_as_in_earlier_versions() -> None:
    assert 'data = "my rows"\n' in TrainSpec(data="my rows").to_toml()
    assert TrainSpec(data="my rows").data == ("my rows",)


def test_default_of_a_setting_that_applies_is_recorded() -> None:
    assert "momentum = 0.9\n" in TrainSpec().to_toml()
    assert "momentum" not in TrainSpec(optimizer="sgd").to_toml()
    assert TrainSpec(momentum=0.9).identity() == TrainSpec().identity()


def test_invalid_toml_is_refused_and_its_file_named() -> None:
    with pytest.raises(UsageError, match=r"^my\.toml is not TOML: .*line 1"):
        from_toml("epochs: 3", "my.toml")
    assert from_toml("\ufeffepochs = 3", "my.toml") == {"epochs": 3}


def test_recipe_omits_settings_that_do_not_affect_the_bits() -> None:
    recipe = TrainSpec().identity()

    others = (
        "data image_column label_column test_split output preset workers address overwrite quiet "
        "log_format strict tensorboard mlflow plots ports"
    )
    assert set(recipe) == {each.name for each in fields(TrainSpec)} - set(others.split())
