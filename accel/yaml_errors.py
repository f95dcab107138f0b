"""YAML files checked against a pydantic model: every mistake at once, with file, line, value and what is allowed.

A file is read twice by ruamel.yaml (YAML 1.2): once as a tree of nodes, which carry line numbers and show duplicate
keys, and once as plain values, which the model validates.
"""

from __future__ import annotations

import difflib
import inspect
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

from ..workloads.errors import InputError

ModelT = TypeVar("ModelT", bound=BaseModel)
#: A place in a document: keys of mappings and indices of sequences, from the root.
Place = tuple[str | int, ...]

_SHOWN_CHARACTERS = 60
_MOST_ENTRIES = 10_000


def load_validated(path: Path | str, model: type[ModelT], *, context: Mapping[str, Any] | None = None) -> ModelT:
    """Read a YAML file and validate it.

    Parameters
    ----------
    path : the file.
    model : pydantic model of the whole document (``extra='forbid'`` makes unknown keys mistakes).
    context : what the model's validators need to know beside the document, such as the file's folder.

    Raises
    ------
    InputError
        if the file cannot be read or is not YAML, and otherwise with one message per mistake (duplicate keys,
        unknown keys, missing keys, wrong values), ordered by line.
    """
    file = Path(path)
    text = _read(file)
    return parse_validated(text, model, name=str(path), context=context)


def load_plain(path: Path | str, *, most_entries: int) -> Any:
    """Plain values of a YAML file whose root has keys.

    Raises
    ------
    InputError
        if the file cannot be read, is not YAML, has a key twice, or more than ``most_entries`` entries with aliases written
        out.
    """
    name = str(path)
    root, values = _parse(_read(Path(path)), name)
    _check_size(root, name, most_entries)
    twice = [f"{name}:{line}: {message}" for line, message in _duplicates(root, ())]
    if twice:
        raise InputError(twice)
    return values


def parse_validated(text: str, model: type[ModelT], *, name: str, context: Mapping[str, Any] | None = None) -> ModelT:
    """Validate YAML text as :func:`load_validated` does a file; ``name`` stands for the file in messages."""
    root, values = _parse(text, name)
    _check_size(root, name, _MOST_ENTRIES)
    lines = dict(_lines(root, ()))
    found = [(line, f"{name}:{line}: {message}") for line, message in _duplicates(root, ())]
    result: ModelT | None = None
    try:
        result = model.model_validate(values, context=context)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            line = _line_of(details["loc"], lines)
            found += [(line, f"{name}:{line}: {message}") for message in _describe(details, model, lines)]
    if found or result is None:
        raise InputError([message for _, message in sorted(found, key=lambda pair: pair[0])])
    return result


def _read(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{file}: no such file{_nearest_file(file)}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{file}: not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror})") from None


def _nearest_file(file: Path) -> str:
    if not file.parent.is_dir():
        return f" (nor a folder '{file.parent}')"
    close = difflib.get_close_matches(file.name, [p.name for p in file.parent.iterdir()], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _parse(text: str, name: str) -> tuple[Node, Any]:
    """Node tree and plain values of a document."""
    composer, constructor = YAML(typ="safe", pure=True), YAML(typ="safe", pure=True)
    constructor.allow_duplicate_keys = True  # reported from the node tree, all of them
    try:
        root = composer.compose(text)
        values = constructor.load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark is not None else 1
        raise InputError(f"{name}:{line}: not YAML: {error.problem or error.context}") from None
    except RecursionError:
        raise InputError(f"{name}:1: nested too deeply") from None
    except (YAMLError, ValueError) as error:
        raise InputError(f"{name}:1: not YAML: {str(error).splitlines()[0]}") from None
    if root is None or not isinstance(root, MappingNode):
        raise InputError(f"{name}:1: expected keys with values, found {_show(values)}")
    return root, values


def _check_size(root: Node, name: str, most_entries: int) -> None:
    """Refuse documents that aliases blow up: those that repeat others, and those that contain themselves."""
    pending, entries = [root], 0
    while pending:
        children = [child for *_, child in _children(pending.pop())]
        entries += len(children)
        if entries > most_entries:
            raise InputError(f"{name}:1: more than {most_entries} entries, aliases (*name) written out")
        pending += children


def _lines(node: Node, place: Place) -> Iterator[tuple[Place, int]]:
    """Line (from 1) of every place of a document; for a key's value, the line of the key."""
    if not place:
        yield (), node.start_mark.line + 1
    for part, mark, child in _children(node):
        yield (*place, part), mark.line + 1
        yield from _lines(child, (*place, part))


def _duplicates(node: Node, place: Place) -> Iterator[tuple[int, str]]:
    first: dict[str | int, int] = {}
    for part, mark, child in _children(node):
        if part in first:
            yield mark.line + 1, f"{_dotted((*place, part))}: key given twice (first in line {first[part]})"
        else:
            first[part] = mark.line + 1
        yield from _duplicates(child, (*place, part))


def _children(node: Node) -> Iterator[tuple[str | int, Any, Node]]:
    """(key or index, position, child) of a mapping or sequence node; nothing for a scalar."""
    if isinstance(node, MappingNode):
        for key, value in node.value:
            part = key.value if isinstance(key, ScalarNode) else str(key.value)
            yield part, key.start_mark, value
    elif isinstance(node, SequenceNode):
        for index, value in enumerate(node.value):
            yield index, value.start_mark, value


def _line_of(loc: Sequence[str | int], lines: Mapping[Place, int]) -> int:
    """Line of the deepest part of a pydantic location that the document has."""
    return lines[_place(loc, lines)]


def _place(loc: Sequence[str | int], lines: Mapping[Place, int]) -> Place:
    """The location without what only the model has: union tags and missing keys."""
    place: Place = ()
    for part in loc:
        if (*place, part) in lines:
            place = (*place, part)
        elif (*place, str(part)) in lines:
            place = (*place, str(part))
    return place


def _describe(details: ErrorDetails, model: type[BaseModel], lines: Mapping[Place, int]) -> list[str]:
    """Messages for one pydantic error (a check of our own may hold several, one per line of its text)."""
    loc, kind = details["loc"], details["type"]
    where = _dotted(_place(loc, lines))
    if kind == "extra_forbidden":
        allowed = _field_names(model, loc[:-1])
        return [f"{where}: unknown key; {_allowed(str(loc[-1]), allowed)}"]
    if kind == "missing":
        inside = f" in '{where}'" if where else ""
        return [f"missing key '{loc[-1]}'{inside}"]
    prefix = f"{where}: " if where else ""
    if kind == "union_tag_invalid":
        tags = re.findall(r"'([^']*)'", details["ctx"]["expected_tags"])
        key, tag = details["ctx"]["discriminator"].strip("'"), details["ctx"]["tag"]
        return [f"{prefix}{key} '{tag}' is unknown; {_allowed(tag, tags)}"]
    if kind == "union_tag_not_found":
        return [f"{prefix}missing key '{details['ctx']['discriminator'].strip(chr(39))}'"]
    if kind == "value_error":
        return [prefix + text for text in str(details["ctx"]["error"]).splitlines()]
    message = f"{prefix}found {_show(details['input'])}; {_lower(details['msg'])}"
    if kind in ("literal_error", "enum") and isinstance(details["input"], str):
        message += _suggestion(details["input"], re.findall(r"'([^']*)'", details["ctx"]["expected"]))
    return [message]


def _field_names(model: type[BaseModel], loc: Sequence[str | int]) -> list[str]:
    """Keys that the model (or the models of a union) allows at a location."""
    here = [model]
    for part in loc:
        fields = [m.model_fields[str(part)].annotation for m in here if str(part) in m.model_fields]
        named = [m for m in here if part in (m.__name__, *_tags(m))]
        if fields:
            here = [found for annotation in fields for found in _models(annotation)]
        elif named:
            here = named
    return sorted({field.alias or name for m in here for name, field in m.model_fields.items()})


def _tags(model: type[BaseModel]) -> Iterator[str]:
    """Values of literal fields: a tagged union names its members by them in locations."""
    for field in model.model_fields.values():
        values = typing.get_args(field.annotation)
        if typing.get_origin(field.annotation) is typing.Literal and len(values) == 1:  # a tag has one value
            yield str(values[0])


def _models(annotation: object) -> Iterator[type[BaseModel]]:
    """Models inside an annotation, through unions and containers."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in typing.get_args(annotation):
        yield from _models(inner)


def _allowed(found: str, names: Sequence[str]) -> str:
    return f"allowed: {', '.join(names) or 'no keys'}{_suggestion(found, names)}"


def _suggestion(found: str, names: Sequence[str]) -> str:
    close = difflib.get_close_matches(found, names, n=1, cutoff=0.5)
    return f"; did you mean '{close[0]}'?" if close else ""


def _dotted(place: Place) -> str:
    """``('stacks', 0, 'size')`` as ``stacks[0].size``."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in place]
    return "".join(parts).lstrip(".")


def _show(value: object) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else text[: _SHOWN_CHARACTERS - 1] + "…"


def _lower(message: str) -> str:
    return message[:1].lower() + message[1:]
