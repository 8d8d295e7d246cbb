# SPDX-License-Identifier: Apache-2.0
"""What a replay found, as a page: from the answer in a sentence down to every setting."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from thermal_nerf_loc.evaluation.report import page
from thermal_nerf_loc.evaluation.report.moments import Chosen
from thermal_nerf_loc.evaluation.study.comparison import cells, COLUMNS, Run

_MEANING = {
    'ate_rmse_m': 'root mean square of the position error',
    'ate_rmse_deg': 'root mean square of the orientation error',
    'ate_mean_m': 'mean position error', 'ate_mean_deg': 'mean orientation error',
    'ate_median_m': 'half of the positions are nearer',
    'ate_median_deg': 'half of the orientations are nearer',
    'ate_max_m': 'largest position error', 'ate_max_deg': 'largest orientation error',
    'rpe_rmse_m': 'root mean square error of the motion between two moments',
    'rpe_rmse_deg': 'the same for its rotation',
    'success_5cm_5deg': 'share of the poses within 5 cm and 5 deg',
    'matched': 'poses that had a truth to be held against',
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
    'self_checks_undecided': 'of these: found none to be believed',
    'self_checks_contradicted': 'of these: found another pose (alarms)',
    'false_alarms': 'alarms though the pose was within 10 cm and 5 deg',
    'missed_alarms': 'confirmed though it was not',
    'false_alarm_share': 'false alarms among the checks of right poses',
    'updates': 'frames localized', 'updates_hz': 'frames localized in a second',
    'latency_median_s': 'from image to pose, half are faster',
    'latency_p90_s': '90 of 100 are faster', 'latency_p95_s': '95 of 100 are faster',
    'latency_p99_s': '99 of 100 are faster', 'latency_max_s': 'the slowest'}


@dataclass(frozen=True, slots=True, eq=False)
class DriveSheet:
    """What is shown of one drive: pictures by name, and moments with captioned pairs."""

    name: str
    runs: Sequence[Run]
    pictures: Mapping[str, bytes]
    moments: Sequence[tuple[Chosen, Sequence[tuple[str, bytes]]]] = ()


_PICTURES = {
    'trajectory': ('The drive from above',
                   'On the map as it looks from above, cut at the height of its cameras; grey '
                   'is what no camera saw. A dot marks the start.'),
    'errors': ('Errors over time',
               'Below: how far the localizer believed itself, and its states. Dotted: the error '
               'it expected (one sigma in the worst direction).'),
    'shares': ('Share of the poses within an error', 'Further left is better.')}


def replay_page(title: str, table: Sequence[Mapping[str, Any]], main: Mapping[str, Any],
                drives: Sequence[DriveSheet], facts: Mapping[str, Mapping[str, object]],
                extra: Sequence[str] = ()) -> str:
    """Compose; `main` are the figures that the page opens with, `extra` blocks of the caller."""
    blocks = [page.paragraph(verdict(main), 'lead'), page.tiles(_tiles(main))]
    if len(table) > 1:
        blocks += [page.heading('Side by side'), comparison_table(table)]
    for drive in drives:
        blocks += _drive(drive, len(drives) > 1)
    blocks += [*extra, page.heading('All figures'), _all_figures(main)]
    if main.get('success'):
        blocks += [page.heading('Within an error', 3), _successes(main['success'])]
    blocks.append(page.heading('How it was made'))
    for name, values in facts.items():
        blocks.append(page.settings(name, values, folded=len(values) > 14))
    return page.page(title, blocks)


def verdict(main: Mapping[str, Any]) -> str:
    """The answer in a sentence or two."""
    parts = []
    if main.get('ate_rmse_m') is not None:
        parts.append(f'{_length(main["ate_rmse_m"])} and {main["ate_rmse_deg"]:.2f}° RMSE against '
                     f'the truth at {main["matched"]} moments; {main["success_5cm_5deg"]:.1%} of '
                     'the poses within 5 cm and 5°.')
    else:
        parts.append('There is no truth to hold the poses against.')
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
    if drive.moments:
        out += [page.heading('Seen and rendered', level),
                page.paragraph('Left what the camera saw, right what the map shows from where the '
                               'robot thinks it is.', 'note')]
    for chosen, pictures in drive.moments:
        out.append(page.pairs(f'{chosen.title.capitalize()} moment', _describe(chosen), pictures))
    return out


def _describe(chosen: Chosen) -> str:
    parts = [f'at {chosen.seconds:.2f} s']
    if chosen.error_m is not None:
        parts.append(f'{_length(chosen.error_m)} and {chosen.error_deg:.2f}° off')
    if chosen.moment is not None:
        told = chosen.moment
        parts.append(told.state + (f' ({told.reason})' if told.reason else ''))
        if told.confidence is not None:
            parts.append(f'confidence {told.confidence:.2f}')
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
