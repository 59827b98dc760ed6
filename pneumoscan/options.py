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
    description
        Of a command that has commands of its own; else it is the dataclass's.
    """
    given = vars(parser_of(options, prog, description=description).parse_args(argv))
    chosen = options if isinstance(options, type) else options[given[_COMMAND]]
    return _instance(chosen, given)


def parser_of(
    options: type[Any] | Mapping[str, type[Any]], prog: str, *, description: str | None = None
) -> argparse.ArgumentParser:
    """The parser of a command."""
    if isinstance(options, type):
        parser = _parser(prog, _text_of(options))
        _add(parser, options)
        return parser
    parser = _parser(prog, description)
    common = _common(list(options.values()))
    if common is not None:
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
        _add(sub, one, given_before={field.name for field in dataclasses.fields(common)} if common else ())
    return parser


def _common(options: Sequence[type[Any]]) -> type[Any] | None:
    """The dataclass that all of them extend, if any; its options may stand before the command as well as after it."""
    if len(options) == 1:  # which would extend itself
        return None
    shared = [one for one in options[0].__mro__ if all(issubclass(other, one) for other in options)]
    return next((one for one in shared if dataclasses.is_dataclass(one)), None)


def completion_parser(prog: str, commands: Mapping[str, tuple[Any, str]]) -> argparse.ArgumentParser:
    """One parser of all commands, for what a shell completes: options and a line of help, by name of the command."""
    parser = argparse.ArgumentParser(prog=prog)
    places = parser.add_subparsers(metavar="COMMAND")
    for name, (options, text) in commands.items():
        if options is None:  # the benchmarks, where there is no checkout
            places.add_parser(name, help=text)
            continue
        parents = [parser_of(options, f"{prog} {name}", description=text)]
        places.add_parser(name, help=text, parents=parents, add_help=False)
    return parser


def web_address(text: str) -> str:
    """An address as a person types it, ``localhost:8080``, with the scheme that it then has."""
    return text if "://" in text else f"http://{text}"


def as_argv(options: Any) -> list[str]:
    """The command line that gives these options again, wherever it is called.

    Paths are absolute, those of defaults too; what else is as by default is left out.
    """
    words: list[str] = []
    last: list[str] = []
    for one in _options_of(type(options)):
        value = one.value_in(options)
        if value is None or (value == one.default and not isinstance(value, Path)):
            continue
        texts = [_text(part) for part in (value if isinstance(value, tuple) else (value,))]
        if one.option.positional:
            last += texts
        elif isinstance(value, bool):
            words.append(one.flag)
        elif one.option.repeated:
            words += [word for text in texts for word in (one.flag, text)]
        else:
            words += [one.flag, *texts]
    return [*words, *(["--", *last] if last else [])]


@dataclass(frozen=True, slots=True)
class Described:
    """An option as a parser, a page or a command line needs it.

    Parameters
    ----------
    field
        Of the dataclass that holds it: the command's own, or that of a group.
    kind
        The type of its value, without ``| None``.
    holder
        The name of the group's field in the command's dataclass; None for the command's own.
    """

    field: dataclasses.Field[Any]
    kind: Any
    option: Option
    group: Group | None = None
    holder: str | None = None

    @property
    def flag(self) -> str:
        """How it is written on a command line: ``--batch-size``, or ``PATH`` for an argument."""
        if self.option.positional:
            return self.option.metavar or self.field.name
        return self.option.flag or f"--{self.field.name.replace('_', '-')}"

    @property
    def default(self) -> Any:
        """Its value where it is left out; `dataclasses.MISSING` where it must not be."""
        return self.field.default

    @property
    def shown_default(self) -> str | None:
        """Its default for a reader, where the help does not say it."""
        default = self.default
        if "(default" in (self.option.help or "") or default in (None, dataclasses.MISSING, ()) or default is False:
            return None
        if isinstance(default, tuple):
            return " ".join(map(str, default))
        return f"{default:g}" if isinstance(default, float) else str(default)

    def value_in(self, options: Any) -> Any:
        """Its value in an instance of the command's dataclass."""
        return getattr(options if self.holder is None else getattr(options, self.holder), self.field.name)


def described(options: type[Any]) -> list[Described]:
    """Each option of a dataclass and of its groups that a reader is shown."""
    return [one for one in _options_of(options) if one.option.help is not None]


def _options_of(options: type[Any]) -> Iterator[Described]:
    hints = get_type_hints(options, include_extras=True)
    for field in dataclasses.fields(options):
        kind, extras = _parts(hints[field.name])
        group = next((one for one in extras if isinstance(one, Group)), None)
        if group is not None:
            yield from (dataclasses.replace(one, group=group, holder=field.name) for one in _options_of(kind))
            continue
        option = next(one for one in extras if isinstance(one, Option))
        check = next((one for one in extras if callable(one)), None)
        yield Described(field, kind, option if check is None else dataclasses.replace(option, check=check))


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
    for one in _options_of(options):
        place: Any = parser
        if one.group is not None:
            if one.group.title not in groups:
                groups[one.group.title] = parser.add_argument_group(one.group.title, one.group.description)
            place = groups[one.group.title]
        if (name := one.option.exclusive) is not None:
            if name not in groups:
                groups[name] = place.add_mutually_exclusive_group(required=one.option.required)
            place = groups[name]
        action = _add_one(place, one)
        if one.field.name in given_before:  # what stood before the command counts, where nothing stands after it
            action.default = argparse.SUPPRESS


def _add_one(place: Any, one: Described) -> Any:
    name, default = one.field.name, one.default
    settings: dict[str, Any] = {"help": _help(one)}
    if one.kind is bool:
        return place.add_argument(one.flag, dest=name, action="store_true", **settings)
    several = get_origin(one.kind) is tuple and get_args(one.kind)[-1] is Ellipsis
    kind = get_args(one.kind)[0] if several else one.kind
    if get_origin(kind) is Literal:
        settings["choices"] = get_args(kind)
    else:
        settings |= {"type": _reader(kind, one.option), "metavar": one.option.metavar}
    if several and one.option.repeated:
        settings["action"] = "append"
    elif several:
        settings["nargs"] = "+" if default is dataclasses.MISSING else "*"
    if one.option.positional:
        if default is not dataclasses.MISSING and not several:
            settings["nargs"] = "?"
        return place.add_argument(name, **settings, **({} if default is dataclasses.MISSING else {"default": default}))
    return place.add_argument(one.flag, dest=name, required=default is dataclasses.MISSING, **settings)


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


def _help(one: Described) -> str:
    if one.option.help is None:
        return argparse.SUPPRESS
    default = one.shown_default
    text = one.option.help if default is None else f"{one.option.help} (default: {default})"
    return text.replace("%", "%%")


def _instance(options: type[T], given: Mapping[str, Any]) -> T:
    own: dict[str, Any] = {}
    groups: dict[str, dict[str, Any]] = {}
    for one in _options_of(options):
        value = given[one.field.name]
        if value is None and one.default is not dataclasses.MISSING:
            value = one.default
        values = own if one.holder is None else groups.setdefault(one.holder, {})
        values[one.field.name] = tuple(value) if isinstance(value, list) else value
    kinds = get_type_hints(options)
    return options(**own, **{name: kinds[name](**values) for name, values in groups.items()})


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


def _text(value: Any) -> str:
    return str(value.absolute()) if isinstance(value, Path) else str(value)


def _text_of(options: type[Any]) -> str:
    lines = (options.__doc__ or "").strip().splitlines()
    return "\n".join(line.strip() for line in lines)
