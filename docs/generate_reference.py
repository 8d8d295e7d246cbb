# SPDX-License-Identifier: Apache-2.0
"""
Write the pages of docs/reference/ that say what the program itself knows.

Commands come from the parsers, settings and parameters from the config dataclasses, thermal scales
from the table of known cameras: nothing is typed twice. Usage: python docs/generate_reference.py
"""

import argparse
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
import textwrap
from typing import Any

from thermal_nerf_loc.cli import COMMANDS, make_parser
from thermal_nerf_loc.localization.alternatives.particles import ParticleConfig
from thermal_nerf_loc.localization.alternatives.pose_regression import RegressionConfig
from thermal_nerf_loc.localization.alternatives.rendered_views import ViewsConfig
from thermal_nerf_loc.localization.localizer import LocalizerConfig
from thermal_nerf_loc.localization.unposed_images import AcceptanceConfig
from thermal_nerf_loc.mapping.thermal_depth.distillation import DistillConfig
from thermal_nerf_loc.mapping.training.config import TrainConfig
from thermal_nerf_loc.sensing.thermal import LinearRadiometry
from thermal_nerf_loc.sensing.thermal_cameras import KNOWN_CAMERAS
from thermal_nerf_loc.simulation.record import SimulationConfig
from thermal_nerf_loc.tracking.node_config import FIXED, NodeConfig

FOLDER = Path(__file__).resolve().parent / 'reference'
WIDTH = 120
COMMON = ('help', 'json', 'verbose')  # options of every command
PLAIN_GROUPS = ('positional arguments', 'options', 'optional arguments')
EXIT_CODES = """| exit code | meaning |
|---|---|
| 0 | done |
| 1 | failed |
| 2 | wrong input or options; the message says what was expected |
| 3 | done in part: `import-bag` found that a part of the bag is lost |
| 130 | interrupted (Ctrl-C, SIGTERM) |"""
NOTICE = '<!-- Written by docs/generate_reference.py. Do not edit: change the program. -->'


@dataclass(frozen=True)
class Setting:
    """One leaf of a config: its dotted name, default, meaning and limits."""

    name: str
    default: Any
    meaning: str
    limits: str
    former: tuple[str, ...]


def settings_of(config: Any, prefix: str = '') -> Iterator[Setting]:
    """Every leaf of a (nested) config, in the order of its fields."""
    for f in fields(config):
        value, name = getattr(config, f.name), prefix + f.name
        if is_dataclass(value):
            yield from settings_of(value, f'{name}.')
            continue
        yield Setting(name, value, f.metadata.get('help', ''), _limits(f.metadata),
                      f.metadata.get('formerly', ()))


def former_sections(config: Any, prefix: str = '') -> Iterator[tuple[str, str]]:
    """(former name, present name) of nested configs that were renamed."""
    for f in fields(config):
        if is_dataclass(getattr(config, f.name)):
            for old in f.metadata.get('formerly', ()):
                yield prefix + old, prefix + f.name
            yield from former_sections(getattr(config, f.name), f'{prefix}{f.name}.')


def pages() -> dict[str, str]:
    """Text of every generated page by file name."""
    return {'commands.md': commands_page(), 'settings.md': settings_page(),
            'parameters.md': parameters_page(), 'thermal_cameras.md': thermal_cameras_page()}


def commands_page() -> str:
    """All commands with all their options."""
    text = ['# Commands', NOTICE, _paragraph(
        'Every command is `thermal-nerf-loc COMMAND`; `thermal-nerf-loc COMMAND --help` says the '
        'same as this page. These options exist everywhere:'),
        '- `--json FILE`: write the figures to FILE.\n'
        '- `--verbose`: show details, and a traceback when something fails.',
        EXIT_CODES]
    for name, summary in COMMANDS.items():
        parser = _parser_of(name)
        text += [f'## `{name}`', _paragraph(_sentence(summary)), _usage(name, parser)]
        for group in parser._action_groups:
            actions = [action for action in group._group_actions if action.dest not in COMMON]
            title = group.title or ''
            if actions and title not in PLAIN_GROUPS:
                text.append(f'**{_capital(title)}**')
            text.append('\n'.join(_action(action, parser) for action in actions))
        text += [_paragraph(block) for block in (parser.epilog or '').split('\n\n')]
    return _page(text)


def settings_page() -> str:
    """What YAML files for `--config` may hold."""
    text = ['# Settings', NOTICE, _paragraph(
        'A YAML file for `--config FILE` may hold any of these; what it leaves out keeps its '
        'default. A dot in a name is one level of the file:'),
        '```yaml\nfield:\n  encoding:\n    levels: 8      # field.encoding.levels\n```',
        _paragraph('An unknown name, a wrong type or a value out of range is refused; the message '
                   'names what was expected. Options of the command line win over the file.')]
    only = 'Set from Python only; '
    for title, used_by, config in (
            ('Training', 'Read by `train --config` and `compare-strategies --config`.',
             TrainConfig()),
            ('Localizer', 'Read by `localize --config`; the node has them as `localizer.NAME`.',
             LocalizerConfig()),
            ('Acceptance of poses', 'Read by `extend --config`.', AcceptanceConfig()),
            ('Depth network', 'Read by `distill-depth --config`.', DistillConfig()),
            ('Simulation', 'Read by `simulate --config`.', SimulationConfig()),
            ('Particles', f'{only}`localize --candidates particles` has the defaults.',
             ParticleConfig()),
            ('Pose regression', f'{only}`localize --candidates regression` has the defaults.',
             RegressionConfig()),
            ('Rendered views', f'{only}the views that pose regression learns from.',
             ViewsConfig())):
        text += [f'## {title}', _paragraph(used_by), *_lists(config), *_former(config)]
    return _page(text)


def parameters_page() -> str:
    """Parameters of the ROS 2 node."""
    text = ['# Parameters of the node', NOTICE, _paragraph(
        '`localizer_node` declares these; `ros2 param describe /localizer NAME` says the same. '
        'Every setting of the [localizer](settings.md#localizer) is a parameter as well, as '
        '`localizer.NAME`. `replay --params-file` reads the same file.'), _paragraph(
        'Parameters may change while the node runs, from the next frame on. Those marked *fixed* '
        'may not: the node refuses the change and says why. `map` counts at the next '
        '`~/reload_map`.')]
    items = {one.name: _item(one, one.name in FIXED) for one in settings_of(NodeConfig())}
    text += ['## The node itself',
             '\n'.join(item for name, item in items.items() if '.' not in name)]
    for f in fields(NodeConfig):
        if f.name != 'localizer' and any(name.startswith(f'{f.name}.') for name in items):
            text += [f'## `{f.name}`', _paragraph(_sentence(f.metadata.get('help', ''))),
                     '\n'.join(item for name, item in items.items()
                               if name.startswith(f'{f.name}.'))]
    return _page([*text, *_former(NodeConfig(), 'localizer.')])


def thermal_cameras_page() -> str:
    """Scales that are known by the camera's name."""
    text = ['# Thermal cameras', NOTICE, _paragraph(
        '`--thermal-camera NAME` of the importers and `thermal_scale.camera: NAME` of the node '
        'say what the 16-bit counts of a camera mean. A scale holds for the setting of the camera '
        'that is named here. Some could not be confirmed: see '
        '[thermal scales](../guide/data.md#thermal-scales).'),
        '| name | deg C = | camera and its setting |\n|---|---|---|\n' + '\n'.join(
            f'| `{name}` | {_scale(known.radiometry)} | {known.setting} |'
            for name, known in KNOWN_CAMERAS.items()),
        _paragraph('A new camera is an entry of `KNOWN_CAMERAS` in `sensing/thermal_cameras.py`, '
                   'with a linear scale, and its name in `cli/options.py`.')]
    return _page(text)


def main() -> int:
    """Write the pages that differ."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        path = FOLDER / name
        if not path.is_file() or path.read_text(encoding='utf-8') != text:
            path.write_text(text, encoding='utf-8')
    return 0


def _parser_of(command: str) -> argparse.ArgumentParser:
    parser = make_parser(command)
    (commands,) = (action for action in parser._actions
                   if isinstance(action, argparse._SubParsersAction))
    chosen: argparse.ArgumentParser = commands.choices[command]
    return chosen


def _usage(name: str, parser: argparse.ArgumentParser) -> str:
    """One line: what must be given, in order."""
    places = [_place(action) for action in parser._actions if not action.option_strings]
    needed = [_spelling(action) for action in parser._actions
              if action.option_strings and action.required]
    line = ' '.join(['thermal-nerf-loc', name, *places, *needed, '[OPTIONS]'])
    return f'```text\n{line}\n```'


def _place(action: argparse.Action) -> str:
    word = str(action.metavar or action.dest.upper())
    return {'?': f'[{word}]', '+': f'{word} [{word} ...]', '*': f'[{word} ...]'}.get(
        str(action.nargs), word)


def _spelling(action: argparse.Action) -> str:
    if not action.option_strings:
        return str(action.metavar or action.dest.upper())
    if action.nargs == 0:
        return action.option_strings[-1]
    choices = '{' + ','.join(map(str, action.choices or ())) + '}'
    value = action.metavar or (choices if action.choices else action.dest.upper())
    words = value if isinstance(value, tuple) else (value,)
    return ' '.join([action.option_strings[-1], *words])


def _action(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    told = ' '.join(((action.help or '') % {**vars(action), 'prog': parser.prog}).split())
    must = ' (required)' if action.option_strings and action.required else ''
    return _wrapped(f'- `{_spelling(action)}`{must}' + (f': {_escaped(told)}' if told else ''))


def _lists(config: Any) -> Iterator[str]:
    """A list of the settings at the top, and one below a heading for each nested config."""
    yield '\n'.join(_item(one) for one in settings_of(config) if '.' not in one.name)
    for f in fields(config):
        value = getattr(config, f.name)
        if is_dataclass(value):
            yield f'**`{f.name}`**: {f.metadata.get("help", "")}'
            yield '\n'.join(_item(one) for one in settings_of(value, f'{f.name}.'))


def _item(one: Setting, fixed: bool = False) -> str:
    limits = f' ({one.limits})' if one.limits else ''
    meaning = f': {_escaped(one.meaning)}' if one.meaning else ''
    return _wrapped(f'- `{one.name}` = `{_value(one.default)}`{limits}{", *fixed*" * fixed}'
                    f'{meaning}')


def _former(config: Any, without: str = ' ') -> list[str]:
    """Names of earlier versions, which are read as the present ones."""
    pairs = [*former_sections(config)]
    for one in settings_of(config):
        level = one.name[:one.name.rfind('.') + 1]
        pairs += [(level + old, one.name) for old in one.former]
    items = [f'- `{old}` is now `{new}`.' for old, new in pairs if not new.startswith(without)]
    return ['Names of earlier versions are still accepted:', '\n'.join(items)] if items else []


def _limits(metadata: Mapping[str, Any]) -> str:
    low, high, choices = (metadata.get(name) for name in ('low', 'high', 'choices'))
    if choices:
        return ', '.join(f'`{choice}`' for choice in choices)
    if low is not None and high is not None:
        return f'{_number(low)} to {_number(high)}'
    return ('' if low is None and high is None else
            f'at least {_number(low)}' if high is None else f'at most {_number(high)}')


def _value(default: Any) -> str:
    """Spell a default as YAML does."""
    if default is None:
        return 'null'
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, (tuple, list)):
        return '[' + ', '.join(_value(part) for part in default) + ']'
    if isinstance(default, (int, float)):
        return _number(default)
    return str(default) if default != '' else "''"


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) and abs(value) < 1e9 else f'{value:.10g}'


def _scale(radiometry: Any) -> str:
    if not isinstance(radiometry, LinearRadiometry):
        return "by FLIR's Planck constants"
    per, offset = radiometry.celsius_per_count, radiometry.celsius_offset
    return f'counts x {_number(per)} {"+" if offset >= 0 else "-"} {_number(abs(offset))}'


def _escaped(text: str) -> str:
    return text.replace('<', '&lt;').replace('|', '\\|').replace('*', '\\*')


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _sentence(text: str) -> str:
    return f'{_capital(text)}.' if text else ''


def _paragraph(text: str) -> str:
    return _wrapped(' '.join(text.split()), '')


def _wrapped(text: str, indent: str = '  ') -> str:
    return textwrap.fill(text, WIDTH, subsequent_indent=indent, break_long_words=False,
                         break_on_hyphens=False)


def _page(blocks: Iterable[str]) -> str:
    return '\n\n'.join(block for block in blocks if block) + '\n'


if __name__ == '__main__':
    raise SystemExit(main())
