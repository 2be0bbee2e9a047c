"""The tables of Accelerate's keys are those of the Accelerate that is installed."""

from __future__ import annotations

import argparse
import dataclasses

import pytest
from accelerate.commands.config.config_args import ClusterConfig
from accelerate.commands.launch import launch_command_parser

from orchestrator.spec.accelerate_keys import ACCELERATE_KEYS, DEEPSPEED, FSDP

OLD_NAMES = {"fp16", "dynamo_backend"}
"""Read from files of former versions and translated."""
WITHOUT_OPTION = {"fsdp_ignored_modules"}
"""Read from a file, but no option of the command line."""


@pytest.fixture(scope="module")
def parser() -> argparse.ArgumentParser:
    """The command line that a file's sections are defaults of."""
    return launch_command_parser()


def options(parser: argparse.ArgumentParser, title: str) -> set[str]:
    """Names of the options in one group of the command line."""
    (group,) = (group for group in parser._action_groups if group.title == title)
    return {action.dest for action in group._group_actions}


def test_the_root_has_the_fields_of_accelerate_config() -> None:
    fields = {field.name for field in dataclasses.fields(ClusterConfig)}
    assert fields | OLD_NAMES == set(ACCELERATE_KEYS)


def test_fsdp_has_the_options_of_accelerate_launch(parser: argparse.ArgumentParser) -> None:
    assert options(parser, "FSDP Arguments") | WITHOUT_OPTION == set(FSDP)


def test_deepspeed_has_the_options_of_accelerate_launch(parser: argparse.ArgumentParser) -> None:
    assert options(parser, "DeepSpeed Arguments") == set(DEEPSPEED)
