"""The flags of all commands are those that `flags.json` records: scripts depend on them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner

from nanograd.cli import cli
from nanograd.settings.fields import REQUIRED, Spec, flag_name
from nanograd.settings.train_spec import PRESETS, TrainSpec
from scripts.write_pages import SETTINGS

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "flags.json").read_text())


def commands(group: click.Group, *words: str) -> Iterator[tuple[str, click.Command]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from commands(command, *words, name)
        else:
            yield " ".join([*words, name]), command


def describe(parameter: click.Parameter, config: type[Spec] | None) -> dict[str, Any]:
    setting = getattr(config, "__dataclass_fields__", {}).get(parameter.name)
    default = setting.default if setting else parameter.default
    return {
        "names": parameter.opts,
        "type": parameter.type.name,
        "choices": list(getattr(parameter.type, "choices", ())),
        "is_flag": getattr(parameter, "is_flag", False),
        "multiple": parameter.multiple,
        "nargs": parameter.nargs,
        "required": parameter.required or default is REQUIRED,
        "default": default if isinstance(default, str | int | float) else None,
    }


def test_commands_flags_and_presets_are_those_recorded_in_their_order():
    found = {
        name: {each.name: describe(each, SETTINGS.get(name)) for each in command.params}
        for name, command in commands(cli)
    }

    assert found == RECORDED["commands"]
    assert list(map(list, found.values())) == list(map(list, RECORDED["commands"].values()))
    assert RECORDED["presets"] == PRESETS


def test_help_lists_rare_flags_only_if_all_are_wanted():
    short, long = (
        CliRunner().invoke(cli, ["train", flag]).output for flag in ("--help", "--help-all")
    )

    rare = [flag_name(each.name) for each in TrainSpec.settings() if each.rare]
    assert rare
    assert not [flag for flag in rare if f"  {flag} " in short]
    assert not [flag for flag in rare if f"  {flag} " not in long]
    assert f"--help-all lists {len(rare)} more options" in short
