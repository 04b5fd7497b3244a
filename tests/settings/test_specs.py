import inspect
import math
from dataclasses import MISSING, fields

import pytest

import nanograd
from nanograd.errors import UsageError
from nanograd.settings import specs
from nanograd.settings.fields import GROUPS, REQUIRED, flag_name, from_toml
from nanograd.settings.specs import PredictSpec, ReadOptions
from nanograd.settings.train_spec import PRESETS, TrainSpec
from scripts.write_pages import SETTINGS

GIVEN = {"model": "m", "output": "o.onnx"}


@pytest.mark.parametrize("class_", SETTINGS.values())
def test_spec_is_immutable_and_its_settings_are_described(class_):
    required = {
        each.name: GIVEN[each.name] for each in class_.settings() if each.default is REQUIRED
    }
    spec = class_.resolve(required)

    with pytest.raises(AttributeError, match="cannot assign"):
        spec.output = "elsewhere"  # type: ignore[attr-defined]
    for each in class_.settings():
        assert each.help
        assert "\n" not in each.help
        assert each.group in GROUPS
        assert each.kind in (int, float, bool, str, tuple)
    for name in required:
        with pytest.raises(UsageError, match=rf"^{flag_name(name)} is missing: \w"):
            class_.resolve({each: required[each] for each in required if each != name})


@pytest.mark.parametrize(
    ("function", "spec", "own"),
    [
        (nanograd.train, TrainSpec, ["listener", "progress", "spec"]),
        (nanograd.ingest, specs.IngestSpec, ["inputs", "listener", "progress", "spec"]),
        (nanograd.predict, PredictSpec, ["inputs", "listener", "progress", "spec"]),
        (nanograd.inspect, specs.InspectSpec, ["inputs", "listener", "spec"]),
        (nanograd.evaluate, specs.EvaluateSpec, ["model", "listener", "spec"]),
        (nanograd.Predictor, ReadOptions, ["model"]),
    ],
)
def test_signature_of_a_function_has_the_settings_and_their_defaults(function, spec, own):
    found = {
        each.name: MISSING if each.default is each.empty else each.default
        for each in inspect.signature(function).parameters.values()
    }

    settings = {each.name: each.default for each in spec.settings() if not each.terminal}
    settings |= {"workers": 0} if "workers" in settings else {}
    assert list(found)[: len(own)] == own
    assert found == settings | {name: found[name] for name in own}


@pytest.mark.parametrize("name", PRESETS)
def test_preset_is_a_choice_resolves_and_decides_the_bits_alone(name):
    spec = TrainSpec.resolve(PRESETS[name], {"preset": name})

    [preset] = [each for each in TrainSpec.settings() if each.name == "preset"]
    assert preset.choices == tuple(PRESETS)
    assert spec.preset == name
    assert set(PRESETS[name]) <= set(spec.identity())


def test_explicit_epochs_override_the_least_rounds_of_a_preset():
    preset = {"preset": "accurate"}

    assert TrainSpec.resolve(preset).least_rounds == 1200
    assert TrainSpec.resolve(preset, {"epochs": 2}).least_rounds == 0
    assert TrainSpec.resolve(preset | {"epochs": 2}, {"least_rounds": 7}).least_rounds == 7


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"epoch": 3}, r"unknown setting 'epoch'; do you mean epochs\?$"),
        ({"batch-size": 3}, r"unknown setting 'batch-size'; do you mean batch_size\?$"),
        ({"colour": 3}, r"unknown setting 'colour'; known are .*epochs"),
        ({"optimizer": "rmsprop"}, "--optimizer is 'rmsprop': choose sgd or momentum or adam"),
        ({"epochs": 0}, "--epochs is 0: it must be at least 1"),
        ({"seed": 2**63}, f"--seed is {2**63}: it must be less than {2**63}"),
        ({"batch_size": 10**20}, f"--batch-size is {10**20}: it must be less than {2**48}"),
        ({"hidden": 10**6}, "--hidden is 1000000: it must be at most 100000"),
        ({"ensemble": 1001}, "--ensemble is 1001: it must be at most 1000"),
        ({"learning_rate": math.nan}, "--learning-rate is nan: it must be finite"),
        ({"learning_rate": math.inf}, "--learning-rate is inf: it must be finite"),
        ({"label_column": ""}, "--label-column is empty; leave it out"),
        ({"ema": 1}, "--ema is 1.0: it must be less than 1"),
        ({"epochs": 2.5}, "--epochs is 2.5: it must be a whole number"),
        ({"epochs": "3"}, "--epochs is '3': it must be a whole number"),
        ({"epochs": True}, "--epochs is True: it must be a whole number"),
        ({"epochs": None}, "--epochs is None: it must be a whole number"),
        ({"learning_rate": "fast"}, "--learning-rate is 'fast': it must be a number"),
        ({"overwrite": 1}, "--overwrite is 1: it must be true or false"),
        ({"data": ["a", 7]}, "--data is .'a', 7.: it must be a string or a list of strings"),
        ({"batch_size": 7, "shards": 8}, "--batch-size 7 is less than --shards 8: "),
        ({"workers": 9, "shards": 8}, "--workers 9 is more than --shards 8: "),
        ({"workers": 0, "address": "h:1"}, "--address has no effect with --workers 0"),
        ({"workers": 0, "ports": "1-9"}, "--ports has no effect with --workers 0"),
        ({"momentum": 0.9, "optimizer": "sgd"}, "--momentum has no effect with --optimizer sgd"),
        ({"width": 3.0, "pixels": "unit"}, "--width has no effect with --pixels unit"),
        *(
            ({"deskew": when, "pixels": "unit"}, "--deskew has no effect with --pixels unit")
            for when in ("before", "after")
        ),
        ({"deskew": "never"}, "--deskew is 'never': choose before or after"),
        *(
            ({"ports": ports}, f"--ports {ports} is no range A-B of ports from 1 to 65535")
            for ports in ("8000", "9-8", "0-9", "1-65536", "a-b", "-", "1-2-3", "٣-٤")
        ),
    ],
)
def test_refusal_names_the_setting_and_the_problem(values, named):
    with pytest.raises(UsageError, match=rf"^{named}"):
        TrainSpec.resolve(values)


@pytest.mark.parametrize(
    ("values", "named"),
    [
        *(({name: 1.005}, "at most 1$") for name in ("review_below", "max_error_rate")),
        ({"rows_per_file": 10**20}, "at most 1000000$"),
        *(({"formats": formats}, f"--formats {formats!r}: choose") for formats in ("svg", " ,")),
        ({"workers": 0, "address": "h:1"}, "--address has no effect with --workers 0"),
        *(
            ({name: True, "overwrite": True}, f"{flag_name(name)} has no effect with --overwrite")
            for name in ("sync", "verify", "retry_quarantine")
        ),
        ({"review_share": 0.5, "review_below": 0.5}, "--review-share and --review-below"),
        *(
            ({"digits": "many", name: "never"}, "has no effect with --digits many")
            for name in ("normalise", "label_from", "label_column")
        ),
    ],
)
def test_refusal_of_a_prediction_names_the_setting(values, named):
    with pytest.raises(UsageError, match=named):
        PredictSpec.resolve({**GIVEN, **values})


@pytest.mark.parametrize(
    ("class_", "values"),
    [
        (TrainSpec, {"batch_size": 8, "shards": 8, "workers": 8}),
        (TrainSpec, {"workers": None, "momentum": 0.0, "optimizer": "momentum"}),
        (TrainSpec, {"seed": 2**63 - 1, "ema": 0.9999, "validation_split": 0.0}),
        (TrainSpec, {"learning_rate": 1, "ema": 0}),
        (TrainSpec, {"learning_rate": 1e-05, "workers": 0, "momentum": 0.1 + 0.2}),
        (TrainSpec, {"output": 'a "quoted"\\path\nüber', "data": ("mnist", "a folder")}),
        (TrainSpec, {"output": "\x1f\x7f\x80"}),
        (TrainSpec, {"output": "beyond/the/basic/plane/\N{INPUT SYMBOL FOR NUMBERS}"}),
        (PredictSpec, {**GIVEN, "keep": ("a", "b"), "review_share": 1, "max_error_rate": 1}),
        (PredictSpec, {**GIVEN, "digits": "many", "label_from": "auto", "normalise": "auto"}),
        (specs.EvaluateSpec, {"model": "m", "verbose": True}),
    ],
)
def test_values_at_the_bounds_are_accepted_and_survive_a_round_trip_through_toml(class_, values):
    spec = class_.resolve(values)

    assert {name: getattr(spec, name) for name in values} == values
    for each in class_.settings():
        assert isinstance(getattr(spec, each.name), each.kind | None)
    assert class_.resolve(from_toml(spec.to_toml(), "config.toml")) == spec


def test_formats_have_one_spelling():
    assert specs.PictureOptions(formats="PNG, jpg,").formats == "png,jpeg"


def test_toml_has_a_line_for_every_setting_that_is_not_none():
    spec = TrainSpec(workers=2, data="my rows")

    lines = dict(line.split(" = ") for line in spec.to_toml().splitlines())

    unset = "address output image_column label_column image_root test_split mlflow ports"
    unset += " resume_from"
    assert list(lines) == [
        each.name for each in fields(TrainSpec) if each.name not in unset.split()
    ]
    assert (lines["data"], lines["momentum"]) == ('"my rows"', "0.9")  # the default that applies
    assert spec.data == ("my rows",)
    assert "momentum" not in TrainSpec(optimizer="sgd").to_toml()
    assert TrainSpec(momentum=0.9).identity() == TrainSpec().identity()


@pytest.mark.parametrize(
    "changed", [{"optimizer": "adam"}, {"optimizer": "sgd"}, {"pixels": "unit"}]
)
def test_stored_setting_without_an_effect_gives_way_to_a_flag(changed):
    stored = from_toml(TrainSpec(width=3.0).to_toml(), "run/config.toml")
    needless = ("momentum",) if "optimizer" in changed else ("width", "height", "deskew")

    spec = TrainSpec.resolve(stored, changed)

    assert all(getattr(spec, name) == getattr(TrainSpec, name) for name in needless)
    with pytest.raises(UsageError, match=f"--{needless[0]} has no effect"):
        TrainSpec.resolve({}, {**changed, needless[0]: 0.5})


def test_invalid_toml_is_refused_and_its_file_named():
    with pytest.raises(UsageError, match=r"^my\.toml is not TOML: .*line 1"):
        from_toml("epochs: 3", "my.toml")
    assert from_toml("\ufeffepochs = 3", "my.toml") == {"epochs": 3}


def test_identity_has_the_settings_that_decide_the_output_sorted():
    others = (
        "data image_column label_column image_root test_split output preset workers address "
        "overwrite quiet log_format strict tensorboard mlflow plots ports resume_from"
    )

    assert set(TrainSpec().identity()) == {f.name for f in fields(TrainSpec)} - set(others.split())
    identity = PredictSpec(**GIVEN, partition_by=("label",), workers=3).identity()
    assert list(identity) == sorted(identity)
    assert identity["partition_by"] == ["label"]
    assert identity == PredictSpec(**{**GIVEN, "output": "p"}, partition_by="label").identity()


def test_reading_options_of_a_spec_are_equal_to_the_same_options():
    spec = PredictSpec(**GIVEN, polarity="light-on-dark", image_column="x", keep=("id",))

    assert spec.reading() == ReadOptions(polarity="light-on-dark", image_column="x")
    assert ReadOptions(**spec.reading().identity()) == spec.reading()
