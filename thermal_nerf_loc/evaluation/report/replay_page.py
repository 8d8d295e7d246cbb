# SPDX-License-Identifier: Apache-2.0
"""The page of a study: a summary in a sentence, tables, figures, example frames, settings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thermal_nerf_loc.evaluation.report import page
from thermal_nerf_loc.evaluation.report.example_frames import ExampleFrame
from thermal_nerf_loc.evaluation.study.comparison import cells, COLUMNS, Run

_MEANING = {
    'ate_rmse_m': 'root mean square of the position error',
    'ate_rmse_deg': 'root mean square of the orientation error',
    'ate_mean_m': 'mean position error', 'ate_mean_deg': 'mean orientation error',
    'ate_median_m': 'median position error',
    'ate_median_deg': 'median orientation error',
    'ate_max_m': 'largest position error', 'ate_max_deg': 'largest orientation error',
    'rpe_rmse_m': 'root mean square error of the motion between two poses',
    'rpe_rmse_deg': 'the same for its rotation',
    'success_5cm_5deg': 'share of the poses within 5 cm and 5 deg',
    'matched': 'poses with a true pose to compare with',
    'alignment_scale': 'scale of the alignment; 1 without sim3',
    'lost_share': 'share of the updates without a pose',
    'time_lost_s': 'time without a pose, the start included',
    'initialization_s': 'from the first image to the first pose',
    'losses': 'times that the pose was lost',
    'recoveries': 'times that it was found again',
    'relocalization_median_s': 'from a loss to the next pose',
    'relocalization_max_s': 'the longest of these',
    'self_checks': 'searches of the whole map that checked the tracked pose',
    'self_checks_confirmed': 'of these: found the same pose',
    'self_checks_undecided': 'of these: found no reliable pose',
    'self_checks_contradicted': 'of these: found another pose (alarms)',
    'false_alarms': 'alarms though the pose was within 10 cm and 5 deg',
    'missed_alarms': 'poses beyond that which were confirmed',
    'false_alarm_share': 'share of false alarms in the checks of correct poses',
    'updates': 'frames localized', 'updates_hz': 'frames localized in a second',
    'latency_median_s': 'from image to pose, median',
    'latency_p90_s': 'the same, 90th percentile', 'latency_p95_s': '95th percentile',
    'latency_p99_s': '99th percentile', 'latency_max_s': 'the longest'}


@dataclass(frozen=True, slots=True, eq=False)
class DriveSheet:
    """What is shown of one drive: plots by name, and example frames with captioned pictures."""

    name: str
    runs: Sequence[Run]
    pictures: Mapping[str, bytes]
    examples: Sequence[tuple[ExampleFrame, Sequence[tuple[str, bytes]]]] = ()


_PICTURES = {
    'trajectory': ('The drive from above',
                   'On the map seen from above, cut at the height of its cameras; grey is what no '
                   'camera saw. A dot marks the start.'),
    'errors': ('Errors over time',
               "Below: the localizer's confidence and states. Dotted: the error it expected (one "
               'sigma in the worst direction).'),
    'shares': ('Share of the poses within an error', 'Further left is better.')}


def replay_page(title: str, table: Sequence[Mapping[str, Any]], main: Mapping[str, Any],
                drives: Sequence[DriveSheet], settings: Mapping[str, Mapping[str, object]],
                extra_blocks: Sequence[str] = ()) -> str:
    """Compose; `main` are the figures on top, `extra_blocks` HTML that the caller adds."""
    blocks = [page.paragraph(summary_text(main), 'lead'), page.tiles(_tiles(main))]
    if len(table) > 1:
        blocks += [page.heading('Side by side'), comparison_table(table)]
    for drive in drives:
        blocks += _drive(drive, len(drives) > 1)
    blocks += [*extra_blocks, page.heading('All figures'), _all_figures(main)]
    if main.get('success'):
        blocks += [page.heading('Within an error', 3), _successes(main['success'])]
    blocks.append(page.heading('How it was made'))
    for name, values in settings.items():
        blocks.append(page.settings(name, values, folded=len(values) > 14))
    return page.page(title, blocks)


def summary_text(main: Mapping[str, Any]) -> str:
    """The main figures in a sentence or two."""
    parts = []
    if main.get('ate_rmse_m') is not None:
        parts.append(f'{_length(main["ate_rmse_m"])} and {main["ate_rmse_deg"]:.2f}° RMSE against '
                     f'the truth at {main["matched"]} poses; {main["success_5cm_5deg"]:.1%} of '
                     'the poses within 5 cm and 5°.')
    else:
        parts.append('There is no truth to compare the poses with.')
    lost = main['lost_share']
    parts.append('It always had a pose.' if lost == 0.0 else
                 f'Without a pose in {lost:.1%} of the updates, {main["time_lost_s"]:.1f} s in '
                 f'all; {_times(main["losses"])} after the start.')
    return ' '.join(parts)


def comparison_table(table: Sequence[Mapping[str, Any]]) -> str:
    """One row a run."""
    drives = len({row['drive'] for row in table}) > 1
    head = [*(['drive'] * drives), 'method', *(name for name, *_ in COLUMNS)]
    return page.table(head, [[*([row['drive']] * drives), row['method'], *cells(row)]
                             for row in table])


def _tiles(main: Mapping[str, Any]) -> list[tuple[str, str]]:
    out = []
    if main.get('ate_rmse_m') is not None:
        out = [(_length(main['ate_rmse_m']), 'position error, RMSE'),
               (f'{main["ate_rmse_deg"]:.2f}°', 'orientation error, RMSE'),
               (f'{main["success_5cm_5deg"]:.1%}', 'within 5 cm and 5°')]
    out.append((f'{main["lost_share"]:.1%}', 'of the updates without a pose'))
    if main.get('updates_hz') is not None:
        out.append((f'{main["updates_hz"]:.1f} Hz', 'updates'))
    if main.get('latency_p95_s') is not None:
        out.append((f'{1000.0 * main["latency_p95_s"]:.0f} ms', 'image to pose, 95 of 100'))
    return out


def _drive(drive: DriveSheet, several: bool) -> list[str]:
    out = [page.heading(drive.name)] if several else []
    level = 3 if several else 2
    for name, data in drive.pictures.items():
        head, caption = _PICTURES[name]
        out += [page.heading(head, level), page.picture(data, head, caption)]
    if drive.examples:
        out += [page.heading('Seen and rendered', level),
                page.paragraph('Left the image of the camera, right the render of the map from '
                               'the estimated pose.', 'note')]
    for example, pictures in drive.examples:
        out.append(page.pairs(f'{example.title.capitalize()} moment', _describe(example),
                              pictures))
    return out


def _describe(example: ExampleFrame) -> str:
    parts = [f'at {example.seconds:.2f} s']
    if example.error_m is not None:
        parts.append(f'{_length(example.error_m)} and {example.error_deg:.2f}° off')
    if (record := example.record) is not None:
        parts.append(record.state + (f' ({record.reason})' if record.reason else ''))
        if record.confidence is not None:
            parts.append(f'confidence {record.confidence:.2f}')
    return ', '.join(parts) + '.'


def _all_figures(main: Mapping[str, Any]) -> str:
    rows = [[name, _number(main[name]), text] for name, text in _MEANING.items()
            if main.get(name) is not None]
    return page.table(('figure', 'value', 'meaning'), rows, 'text')


def _successes(rates: Sequence[Mapping[str, float]]) -> str:
    return page.table(
        ('nearer than', 'of the poses', 'of all updates'),
        [[f'{100.0 * rate["metres"]:g} cm and {rate["degrees"]:g}°',
          f'{rate["share_of_poses"]:.1%}', f'{rate["share_of_updates"]:.1%}'] for rate in rates])


def _length(metres: float) -> str:
    return f'{100.0 * metres:.2f} cm' if metres < 1.0 else f'{metres:.2f} m'


def _times(count: int) -> str:
    return {0: 'never lost', 1: 'lost once', 2: 'lost twice'}.get(count, f'lost {count} times')


def _number(value: Any) -> str:
    return f'{value:.4g}' if isinstance(value, float) else str(value)
