# SPDX-License-Identifier: Apache-2.0
"""Find folders of RGB and thermal image files, list them, and pair their images."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
import re
from typing import Any

from thermal_nerf_loc.common.errors import InputError
from thermal_nerf_loc.io.atomic_files import read_bytes, reading
from thermal_nerf_loc.io.image_series import is_series, VIDEOS
from thermal_nerf_loc.io.radiometric_jpeg import maker_of

RGB_FOLDERS = ('rgb', 'color', 'colour', 'visible', 'images')
THERMAL_FOLDERS = ('thermal', 'infrared', 'ir', 'lwir')
PAIRINGS = ('auto', 'name', 'order')

_RGB_SUFFIXES = ('.png', '.jpg', '.jpeg', '.tif', '.tiff', '.bmp', '.webp')
_THERMAL_SUFFIXES = (*_RGB_SUFFIXES, '.npy')
# Words in which the names of a pair may differ: img_0007_rgb.jpg and img_0007_ir.tiff.
_WORDS = re.compile(r'(?<![a-z])(rgb|colou?r|visible|vis|images?|img|thermal|infrared|ir|lwir|'
                    r'flir|frame)(?![a-z])')
_EXAMPLES = 3  # file names in an error
_MIN_PAIRED_SHARE = 0.5  # of the shorter list; with fewer pairs the names are no evidence


@dataclass(frozen=True, slots=True)
class Pairing:
    """Thermal file names by RGB file name, the rule that paired them, and unpaired files."""

    partner: Mapping[str, str]
    paired_by: str
    rgb_unpaired: tuple[str, ...]
    thermal_unpaired: tuple[str, ...]


def find_folders(root: Path, rgb: Path | None, thermal: Path | None,
                 ) -> tuple[Path | None, Path | None]:
    """
    The folders named (inside `root`, or anywhere), else those with a usual name in `root`.

    None for RGB where all images are thermal: `root` is a video or a stack, holds radiometric
    JPEGs, or nothing but the folder of thermal images.
    """
    if root.is_file():
        return None, root
    with reading(root):
        inside = sorted(entry for entry in root.iterdir() if entry.is_dir())
    found: dict[str, Path | None] = {}
    for option, given, usual in (('--rgb', rgb, RGB_FOLDERS),
                                 ('--thermal', thermal, THERMAL_FOLDERS)):
        if given is not None:
            found[option] = root / given if (root / given).exists() else given
            continue
        named = [folder for folder in inside if folder.name.lower() in usual]
        if len(named) > 1:
            raise InputError('several folders may be meant', where=root, expected=option,
                             got=', '.join(folder.name for folder in named))
        found[option] = named[0] if named else None
    if found['--rgb'] is not None:
        return found['--rgb'], found['--thermal']
    if found['--thermal'] is not None:
        return (root if _image_names(root, _RGB_SUFFIXES) else None), found['--thermal']
    return (None, root) if _is_thermal(root) else (root, None)


def _is_thermal(folder: Path) -> bool:
    """Whether a folder holds radiometric JPEGs, or a series without other images."""
    with reading(folder):
        files = sorted(path for path in folder.iterdir() if path.is_file()
                       and path.suffix.lower() in (*_RGB_SUFFIXES, *VIDEOS))
    series = [path for path in files if is_series(path)]
    radiometric = [path for path in files if path.suffix.lower() not in VIDEOS
                   and maker_of(read_bytes(path)) is not None]
    if radiometric and len(radiometric) < len(files):
        other = next(path for path in files if path not in radiometric)
        raise InputError('radiometric images and others lie in one folder', where=folder,
                         expected='thermal images in thermal/, photographs in rgb/',
                         got=f'{len(radiometric)} radiometric of {len(files)}; '
                             f'{radiometric[0].name} is, {other.name} is not')
    return bool(files) and len(files) in (len(series), len(radiometric))


def _image_names(folder: Path, suffixes: Sequence[str]) -> list[str]:
    with reading(folder):
        return [entry.name for entry in folder.iterdir()
                if entry.is_file() and entry.suffix.lower() in suffixes
                and not entry.name.startswith('.')]


def list_images(folder: Path, thermal: bool = False) -> list[str]:
    """Image files of a folder in the order of their names, in which 2 comes before 10."""
    suffixes = _THERMAL_SUFFIXES if thermal else _RGB_SUFFIXES
    names = _image_names(folder, suffixes)
    if not names:
        raise InputError('folder has no image', where=folder,
                         expected='files that end in ' + ' '.join(suffixes))
    return sorted(names, key=_natural)


def check_sizes(folder: Path, names: Sequence[str], read: Callable[[Path], Any],
                report_count: Callable[[int], None]) -> tuple[int, int]:
    """Decode every image; returns the size (width, height), which must be the same for all."""
    sizes = {}
    for count, name in enumerate(names, start=1):
        height, width = read(folder / name).shape[:2]
        sizes[name] = (width, height)
        report_count(count)
    most, _ = Counter(sizes.values()).most_common(1)[0]
    others = [f'{name} ({size[0]}x{size[1]})' for name, size in sizes.items() if size != most]
    if others:
        raise InputError('images are not all of one size', where=folder,
                         expected=f'{most[0]}x{most[1]} pixels, as most have',
                         got=f'{len(others)} others: {_examples(others)}',
                         hint='One camera is expected; sort the images of others out.')
    return most


def pair_images(rgb: Sequence[str], thermal: Sequence[str], rule: str = 'auto') -> Pairing:
    """Find each RGB image's thermal one: by name, else, where they are equally many, by order."""
    by_order = Pairing(dict(zip(rgb, thermal)), 'order of the names', (), ())
    enough = 1 if rule == 'name' else _MIN_PAIRED_SHARE * min(len(rgb), len(thermal))
    if rule != 'order':
        for paired_by, key in (('equal names', _stem),
                               ('names that differ by rgb, thermal or the like', _reduced)):
            keys = _by_key(rgb, key), _by_key(thermal, key)
            common = keys[0].keys() & keys[1].keys()
            if len(common) >= enough:
                partner = {name: keys[1][k] for k, name in keys[0].items() if k in common}
                paired = set(partner.values())
                return Pairing(partner, paired_by, tuple(n for n in rgb if n not in partner),
                               tuple(n for n in thermal if n not in paired))
    if rule == 'name' or len(rgb) != len(thermal):
        raise InputError('thermal images cannot be paired with RGB images',
                         expected='equal names but for the ending' if rule == 'name' else
                         'equal names but for the ending, or equally many of both',
                         got=f'{len(rgb)} RGB images ({_examples(rgb)}) and {len(thermal)} '
                             f'thermal ones ({_examples(thermal)})',
                         hint='Rename them; --pair name takes the few whose names agree.'
                         if rule == 'auto' else None)
    return by_order


def _by_key(names: Sequence[str], key: Callable[[str], str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in names:
        if found.setdefault(key(name), name) != name:
            raise InputError('two images go by one name', where=key(name) or name,
                             got=f'{found[key(name)]} and {name}',
                             hint='Pairing by name is then ambiguous; rename one, or pass '
                                  '--pair order.')
    return found


def _stem(name: str) -> str:
    return Path(name).stem.lower()


def _reduced(name: str) -> str:
    return re.sub(r'[^a-z0-9]+', '_', _WORDS.sub('', _stem(name))).strip('_')


def _natural(name: str) -> tuple[Any, ...]:
    """Sort key in which digits count as numbers; text and numbers alternate, and never compare."""
    return (*(int(part) if part.isdigit() else part.lower()
              for part in re.split(r'([0-9]+)', name)), name)


def _examples(names: Sequence[str]) -> str:
    return ', '.join(names[:_EXAMPLES]) + (', ...' if len(names) > _EXAMPLES else '')
