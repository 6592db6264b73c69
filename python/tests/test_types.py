"""The type stubs say what the compiled module has."""

import ast
import inspect
from pathlib import Path

import pytest

from taskseal import _native

STUBS = ast.parse(Path(_native.__file__).with_name("_native.pyi").read_text())
CLASSES = {node.name: node for node in STUBS.body if isinstance(node, ast.ClassDef)}
#: What every class of Python has.
COMMON = set(dir(object)) | {"__module__", "__doc__", "__lt__", "__le__", "__gt__", "__ge__"}


def arguments(function):
    """Names of a stub's arguments and whether each has a default, without `self` and `cls`."""
    given = function.args
    positional = [*given.posonlyargs, *given.args]
    defaults = [False] * (len(positional) - len(given.defaults)) + [True] * len(given.defaults)
    pairs = [*zip(positional, defaults), *zip(given.kwonlyargs, (default is not None for default in given.kw_defaults))]
    return [(argument.arg, default) for argument, default in pairs if argument.arg not in ("self", "cls")]


def test_the_classes_are_the_same():
    compiled = {name for name, value in vars(_native).items() if inspect.isclass(value)}
    assert compiled == set(CLASSES)


@pytest.mark.parametrize("name", CLASSES)
def test_members_and_arguments_are_the_same(name):
    compiled = getattr(_native, name)
    stubs = {node.name: node for node in CLASSES[name].body}
    stubbed = {member for member in stubs if member not in COMMON}
    assert stubbed == {member for member in vars(compiled) if member not in COMMON}
    for member, node in stubs.items():
        if member in ("__eq__", "__ne__", "__hash__", "__len__", "__contains__"):
            continue
        if any(isinstance(decorator, ast.Name) and decorator.id == "property" for decorator in node.decorator_list):
            assert inspect.isdatadescriptor(vars(compiled)[member]), member
            continue
        called = compiled if member == "__new__" else getattr(compiled, member)
        real = [
            (parameter.name, parameter.default is not inspect.Parameter.empty)
            for parameter in inspect.signature(called).parameters.values()
            if parameter.name != "self"
        ]
        assert arguments(node) == real, member
        assert member == "__new__" or called.__doc__, f"{member} has no docstring"


def test_it_is_marked_as_typed():
    assert Path(_native.__file__).with_name("py.typed").exists()
