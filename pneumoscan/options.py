"""Options of commands as frozen dataclasses: from fields to an argparse parser, from a command line to an instance.

A field is an option. Its type says how its text is read, its default is the option's (none: the option is required),
and what a reader of ``--help`` sees stands beside it::

    @dataclass(frozen=True, kw_only=True)
    class Options:
        \"\"\"Count films.\"\"\"

        folder: Annotated[Path, Option("folder of films", positional=True)]
        jobs: Annotated[int, Option("films at once", "N", check=at_least(1))] = 8

``bool`` is a switch, ``X | None`` an option that may be left out, ``tuple[X, ...]`` takes several values, `Literal` is
a choice. A field that is a dataclass with a `Group` is a group of options of its own. A command with commands of its
own (``pneumoscan models register``) has a dataclass for each.
"""

from __future__ import annotations

import argparse
import dataclasses
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Literal, NoReturn, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")
Check = Callable[[Any], str | None]  # of a value: None, or what is wrong with it

EXIT_STATUSES: Final = "Exit status: 0 done, 1 failed, 2 what was asked for cannot be done; see docs/commands.md."
_COMMAND: Final = "command"


@dataclass(frozen=True, slots=True)
class Option:
    """What ``--help`` says of a field, and how its text is taken.

    Parameters
    ----------
    help
        One or two lines; "(default: …)" is put behind it where the field has one. None hides the option.
    metavar
        The name of its value, such as ``DIR``.
    flag
        The option where it is not the field's name with dashes.
    positional
        An argument instead of an option.
    repeated
        A tuple whose values come one at a time: ``--engine A --engine B``; else together: ``--keep A B``.
    check
        What has to hold for the value.
    read
        From text to value, where the type alone does not say it; raises ValueError with the rule.
    exclusive
        Options with the same name here exclude each other.
    required
        One of those has to be given.
    """

    help: str | None
    metavar: str | None = None
    flag: str | None = None
    positional: bool = False
    repeated: bool = False
    check: Check | None = None
    read: Callable[[str], Any] | None = None
    exclusive: str | None = None
    required: bool = False


@dataclass(frozen=True, slots=True)
class Group:
    """The title of the options of a nested dataclass, and what is said of all of them."""

    title: str
    description: str | None = None


def at_least(lowest: float) -> Check:
    """A check that a number is as large as this."""
    return lambda value: None if value >= lowest else f"{value} is not {lowest} or more"


def between(lowest: float, highest: float) -> Check:
    """A check that a number lies between two, both included."""
    return lambda value: None if lowest <= value <= highest else f"{value} is not between {lowest} and {highest}"


Port = Annotated[int, between(1, 65535)]


def positive(text: str) -> int:
    """The whole number of 1 or more that a text writes, for a parser made by hand."""
    return _whole(text, 1)


def not_negative(text: str) -> int:
    """The whole number of 0 or more that a text writes, for a parser made by hand."""
    return _whole(text, 0)


def _whole(text: str, lowest: int) -> int:
    number = int(text)
    if (wrong := at_least(lowest)(number)) is not None:
        raise argparse.ArgumentTypeError(wrong)
    return number


def parse(
    options: type[T] | Mapping[str, type[T]], argv: Sequence[str], prog: str, *, description: str | None = None
) -> T:
    """The options of a command line; ends the process with 2 and a line of why where it cannot be read (argparse).

    Parameters
    ----------
    options
        The dataclass of the command, or those of its commands by name.
    prog
        How the command is called, as ``--help`` shows it.
    """
    given = vars(parser_of(options, prog, description=description).parse_args(argv))
    chosen = options if isinstance(options, type) else options[given[_COMMAND]]
    return _instance(chosen, given)


def parser_of(
    options: type[Any] | Mapping[str, type[Any]], prog: str, *, description: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command."""
    if isinstance(options, type):
        parser = _parser(prog, description or _text_of(options))
        _add(parser, options)
        return parser
    parser = _parser(prog, description)
    common = _common(list(options.values()))
    _add(parser, common)
    commands = parser.add_subparsers(required=True, dest=_COMMAND, metavar="COMMAND", parser_class=_Parser)
    for name, one in options.items():
        text = _text_of(one)
        first = text.partition("\n")[0].rstrip(".")
        sub = commands.add_parser(
            name,
            help=first[:1].lower() + first[1:],
            description=text,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        _add(sub, one, given_before={field.name for field in dataclasses.fields(common)})
    return parser


def _common(options: Sequence[type[Any]]) -> type[Any]:
    """The dataclass that all of them extend; its options may stand before the command as well as after it."""
    shared = [one for one in options[0].__mro__ if all(issubclass(other, one) for other in options)]
    return next(one for one in shared if dataclasses.is_dataclass(one))


def whole_parser(prog: str, commands: Mapping[str, tuple[Any, str]]) -> argparse.ArgumentParser:
    """One parser of all commands, for what a shell completes: options and a line of help, by name of the command."""
    parser = argparse.ArgumentParser(prog=prog)
    places = parser.add_subparsers(metavar="COMMAND")
    for name, (options, text) in commands.items():
        if options is None:  # a command with a parser of its own
            places.add_parser(name, help=text)
            continue
        parents = [parser_of(options, f"{prog} {name}", description=text)]
        places.add_parser(name, help=text, parents=parents, add_help=False)
    return parser


def as_argv(options: Any) -> list[str]:
    """The command line that gives these options again, wherever it is called.

    Paths are absolute, those of defaults too; what else is as by default is left out.
    """
    words: list[str] = []
    last: list[str] = []
    for field, value, option in _given(options):
        if value is None or (value == _default(field) and not isinstance(value, Path)):
            continue
        texts = [_text(one) for one in (value if isinstance(value, tuple) else (value,))]
        if option.positional:
            last += texts
        elif isinstance(value, bool):
            words.append(_flag(field, option))
        elif option.repeated:
            words += [word for text in texts for word in (_flag(field, option), text)]
        else:
            words += [_flag(field, option), *texts]
    return [*words, *(["--", *last] if last else [])]


def fields_of(options: type[Any]) -> Iterator[tuple[dataclasses.Field[Any], Any, Option, Group | None]]:
    """Each option of a dataclass and of its groups: the field, its bare type, what is said of it, its group."""
    hints = get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        bare, extras = _parts(hints[field.name])
        group = next((one for one in extras if isinstance(one, Group)), None)
        if group is not None:
            yield from ((inner, its, option, group) for inner, its, option, _ in fields_of(bare))
            continue
        option = next((one for one in extras if isinstance(one, Option)), Option(None))
        check = next((one for one in extras if callable(one)), None)
        if check is not None and option.check is None:
            option = dataclasses.replace(option, check=check)
        yield field, bare, option, None


def flag_of(field: dataclasses.Field[Any], option: Option) -> str:
    """How an option is written on a command line: ``--batch-size``, or ``PATH`` for an argument."""
    return (option.metavar or field.name) if option.positional else _flag(field, option)


class _Parser(argparse.ArgumentParser):
    """A parser that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see --help)\n")


def _parser(prog: str, description: str | None) -> argparse.ArgumentParser:
    return _Parser(
        prog=prog,
        description=description,
        epilog=EXIT_STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )


def _add(parser: argparse.ArgumentParser, options: type[Any], given_before: Collection[str] = ()) -> None:
    groups: dict[str, Any] = {}
    for field, bare, option, group in fields_of(options):
        place: Any = parser
        if group is not None:
            place = groups.setdefault(group.title, None) or parser.add_argument_group(group.title, group.description)
            groups[group.title] = place
        if option.exclusive is not None:
            key = f"exclusive {option.exclusive}"
            groups[key] = place = groups.get(key) or place.add_mutually_exclusive_group(required=option.required)
        action = _add_one(place, field, bare, option)
        if field.name in given_before:  # what stood before the command counts, where nothing stands after it
            action.default = argparse.SUPPRESS


def _add_one(place: Any, field: dataclasses.Field[Any], bare: Any, option: Option) -> Any:
    default = _default(field)
    settings: dict[str, Any] = {"help": _help(option, default), "default": default}
    if bare is bool:
        return place.add_argument(_flag(field, option), dest=field.name, action="store_true", help=settings["help"])
    several = get_origin(bare) is tuple and get_args(bare)[-1] is Ellipsis
    one = get_args(bare)[0] if several else bare
    if get_origin(one) is Literal:
        settings["choices"] = get_args(one)
    else:
        settings["type"] = _reader(one, option)
        settings["metavar"] = option.metavar
    if several and option.repeated:
        settings |= {"action": "append", "default": None}
    elif several:
        settings["nargs"] = "+" if default is dataclasses.MISSING else "*"
    if option.positional:
        if default is dataclasses.MISSING:
            del settings["default"]
        return place.add_argument(field.name, **settings)
    if default is dataclasses.MISSING:
        settings |= {"required": True, "default": None}
    return place.add_argument(_flag(field, option), dest=field.name, **settings)


def _reader(kind: Any, option: Option) -> Callable[[str], Any]:
    """From the text of one value to the value; argparse shows the message of what it raises."""
    read = option.read or kind

    def checked(text: str) -> Any:
        try:
            value = read(text)
        except argparse.ArgumentTypeError:
            raise
        except ValueError as error:
            if option.read is not None:
                raise argparse.ArgumentTypeError(str(error)) from error
            raise
        if option.check is not None and (wrong := option.check(value)) is not None:
            raise argparse.ArgumentTypeError(wrong)
        return value

    checked.__name__ = getattr(kind, "__name__", "value")  # argparse: "invalid int value"
    return checked


def _help(option: Option, default: Any) -> str:
    if option.help is None:
        return argparse.SUPPRESS
    text = option.help.replace("%", "%%")
    if "(default" in text or default in (None, dataclasses.MISSING, ()) or default is False:
        return text
    shown = (
        " ".join(map(str, default))
        if isinstance(default, tuple)
        else f"{default:g}"
        if isinstance(default, float)
        else default
    )
    return f"{text} (default: {shown})".replace("%%", "%").replace("%", "%%")


def _instance(options: type[T], given: Mapping[str, Any]) -> T:
    hints = get_type_hints(options, include_extras=True)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):  # type: ignore[arg-type]
        bare, extras = _parts(hints[field.name])
        if any(isinstance(one, Group) for one in extras):
            values[field.name] = _instance(bare, given)
            continue
        value = given[field.name]
        if value is None and _default(field) is not dataclasses.MISSING:
            value = _default(field)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return options(**values)


def _given(options: Any) -> Iterator[tuple[dataclasses.Field[Any], Any, Option]]:
    hints = get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        _, extras = _parts(hints[field.name])
        value = getattr(options, field.name)
        if any(isinstance(one, Group) for one in extras):
            yield from _given(value)
        else:
            yield field, value, next((one for one in extras if isinstance(one, Option)), Option(None))


def _parts(hint: Any) -> tuple[Any, tuple[Any, ...]]:
    """The bare type of a field, without ``| None``, and what is annotated to it."""
    extras: tuple[Any, ...] = ()
    while get_origin(hint) in (Annotated, Union, types.UnionType):
        if get_origin(hint) is Annotated:
            hint, *more = get_args(hint)
            extras += tuple(more)
        else:
            hint = next(one for one in get_args(hint) if one is not types.NoneType)
    return hint, extras


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _flag(field: dataclasses.Field[Any], option: Option) -> str:
    return option.flag or f"--{field.name.rstrip('_').replace('_', '-')}"


def _text(value: Any) -> str:
    return str(value.absolute()) if isinstance(value, Path) else str(value)


def _text_of(options: type[Any]) -> str:
    lines = (options.__doc__ or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines)
