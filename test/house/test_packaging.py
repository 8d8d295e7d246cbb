# SPDX-License-Identifier: Apache-2.0
"""The package as pip and colcon see it: one version, real entry points, files where ROS looks."""

import ast
import importlib.util
import os
from pathlib import Path
import platform
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
import zipfile

import pytest

import thermal_nerf_loc
from thermal_nerf_loc.field.native.library import SETS

ROOT = Path(__file__).resolve().parents[2]
NAME = 'thermal_nerf_loc'
PROGRAMS = {
    'thermal-nerf-loc': f'{NAME}.cli:main',
    'localizer_node': f'{NAME}.ros.localizer_node:main',
    'bag_player': f'{NAME}.ros.bag_player:main',
}


@pytest.fixture(scope='module')
def sources(tmp_path_factory):
    """Copy what an installer needs, so that nothing is built inside the checkout."""
    copy = tmp_path_factory.mktemp('workspace') / 'src' / NAME
    copy.mkdir(parents=True)
    for name in ('package.xml', 'setup.py', 'setup.cfg', 'pyproject.toml', 'README.md', 'LICENSE'):
        shutil.copy(ROOT / name, copy)
    for name in (NAME, 'resource', 'config', 'launch', 'environment'):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name,
                            ignore=shutil.ignore_patterns('__pycache__', '.*', '*.so'))
    shutil.copy(ROOT / 'environment/tf2_msgs/COLCON_IGNORE', copy / 'environment/tf2_msgs')
    return copy


@pytest.fixture(scope='module')
def wheel(sources, tmp_path_factory):
    """Build what `pip install .` would install."""
    folder = tmp_path_factory.mktemp('wheel')
    _run([sys.executable, '-m', 'pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation',
          '--disable-pip-version-check', '--wheel-dir', folder, sources])
    (path,) = folder.glob('*.whl')
    with zipfile.ZipFile(path) as archive:
        yield archive


@pytest.fixture(scope='module', params=['copied', 'linked'])
def prefix(request, sources):
    """Run `colcon build` and return what it installed, as copies or as links to the sources."""
    if importlib.util.find_spec('colcon_core') is None \
            or importlib.util.find_spec('colcon_ros') is None:
        pytest.skip('needs colcon: pip install .[colcon]')
    workspace = sources.parents[1]
    environment = os.environ | {'COLCON_HOME': str(workspace / 'home')}
    listed = _run([sys.executable, '-m', 'colcon', 'list'], cwd=workspace, env=environment)
    assert listed.stdout.split() == [NAME, f'src/{NAME}', '(ros.ament_python)']
    bases = [f'--{base}-base={workspace / request.param / base}' for base in ('build', 'install')]
    links = ['--symlink-install'] if request.param == 'linked' else []
    chosen = ([f'--packages-select={NAME}']
              if importlib.util.find_spec('colcon_package_selection') else [])
    _run([sys.executable, '-m', 'colcon', 'build', *chosen, *bases, *links], cwd=workspace,
         env=environment)
    return workspace / request.param / 'install' / NAME


def test_versions_agree():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert manifest.findtext('version') == thermal_nerf_loc.__version__
    newest = re.search(r'^## (\S+)', (ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'), re.M)
    assert newest is not None
    assert newest[1] == thermal_nerf_loc.__version__


def test_manifests_are_valid():
    packages = pytest.importorskip('catkin_pkg.package', reason='needs catkin_pkg')
    for folder in (ROOT, ROOT / 'environment/tf2_msgs'):
        warnings: list[str] = []
        package = packages.parse_package(str(folder), warnings=warnings)
        package.validate()
        assert not warnings
        assert package.package_format == 3
    assert packages.parse_package(str(ROOT)).get_build_type() == 'ament_python'


def test_manifest_names_every_ros_package_in_use():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    declared = {tag.text for tag in manifest if tag.tag in ('depend', 'exec_depend')}
    used = set()
    for path in [*(ROOT / NAME / 'ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.ImportFrom) and node.module:
                used.add(node.module.split('.')[0])
            elif isinstance(node, ast.Import):
                used |= {alias.name.split('.')[0] for alias in node.names}
    ros = {name for name in used if re.fullmatch(
        r'rclpy|\w+_msgs|\w+_interfaces|std_srvs|tf2_\w+|launch\w*|ament_index_python', name)}
    assert 'rclpy' in ros
    assert ros <= declared


def test_constraints_pin_every_direct_dependency():
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    listed = setup[setup.index('install_requires='):setup.index('zip_safe=')]
    wanted = {re.split(r'[><=]', text)[0] for text in re.findall(r"'([\w.><=-]+)'", listed)}
    wanted -= {'test', 'sfm', 'phone', 'view', 'onnx', 'docs', 'lint', 'colcon', 'cluster',
               'remote'}
    pins = re.findall(r'^([\w.-]+)==\S+?(?:; (.+))?$',
                      (ROOT / 'constraints.txt').read_text(encoding='utf-8'), re.M)
    assert {'torch', 'pytest', 'ruff'} <= wanted <= {name for name, _ in pins}
    # A name that is pinned twice is so for two sides of one boundary.
    for name in {name for name, _ in pins}:
        conditions = sorted(condition for other, condition in pins if other == name)
        assert conditions in ([''], ["python_version < '3.11'", "python_version >= '3.11'"]), name


def test_manifest_names_no_ros_package_in_vain():
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    declared = {tag.text for tag in manifest if tag.tag == 'exec_depend'}
    text = ''.join(path.read_text(encoding='utf-8') for path in [
        *(ROOT / NAME / 'ros').rglob('*.py'), *(ROOT / 'launch').glob('*.py')])
    unused = {name for name in declared if not name.startswith('python3-')
              and not re.search(rf'(from|import) {name}\b|package=.{name}\b', text)}
    assert unused == set()


def test_the_packages_for_a_workspace_are_those_of_setup():
    setup = (ROOT / 'setup.py').read_text(encoding='utf-8')
    block = setup[setup.index('install_requires='):setup.index('extras_require=')]
    listed = (ROOT / 'environment/python-packages.txt').read_text(encoding='utf-8').splitlines()
    assert [line for line in listed if not line.startswith('#')] == re.findall(
        r"'([\w.><=-]+)'", block)


@pytest.mark.parametrize('target', PROGRAMS.values())
def test_programs_exist(target):
    module, function = target.split(':')
    path = ROOT.joinpath(*module.split('.'))
    source = path / '__init__.py' if path.is_dir() else path.with_suffix('.py')
    defined = [node.name for node in ast.parse(source.read_text(encoding='utf-8')).body
               if isinstance(node, ast.FunctionDef)]
    assert function in defined


@pytest.mark.slow
def test_wheel_holds_programs_and_shared_files(sources, wheel):
    (info,) = {name.split('/')[0] for name in wheel.namelist() if '.dist-info/' in name}
    points = wheel.read(f'{info}/entry_points.txt').decode()
    assert dict(line.split(' = ') for line in points.splitlines() if ' = ' in line) == PROGRAMS
    data = f'{NAME}-{thermal_nerf_loc.__version__}.data'
    shared = {name.removeprefix(f'{data}/data/share/') for name in wheel.namelist()
              if name.startswith(data)}
    assert shared == {f'ament_index/resource_index/packages/{NAME}', f'{NAME}/package.xml',
                      *_shared_files(sources)}
    # Every part of the package is in it, and nothing beside the package.
    modules = {name for name in wheel.namelist()
               if name.endswith('.py') and not name.startswith(data)}
    assert modules == {str(path.relative_to(sources)) for path in (sources / NAME).rglob('*.py')}
    # Sources of the compiled kernels, and the kernels where a compiler is.
    native = f'{NAME}/field/native/'
    assert {name for name in wheel.namelist() if name.endswith(('.cpp', '.h'))} == {
        str(path.relative_to(sources)) for end in ('cpp', 'h')
        for path in (sources / native).glob(f'*.{end}')}
    if shutil.which('c++') and platform.machine() == 'x86_64':
        assert {f'{native}kernels_{name}.so' for name in SETS} <= set(wheel.namelist())


@pytest.mark.skipif(platform.machine() != 'x86_64', reason='no compiled kernels but on x86-64')
@pytest.mark.parametrize('compiler', ['no-such-compiler', 'false'])
def test_without_a_compiler_it_installs_and_says_so(sources, tmp_path, compiler):
    built = _run([sys.executable, 'setup.py', '--quiet', 'build_ext', '--build-lib', tmp_path],
                 cwd=sources, env=os.environ | {'CXX': compiler})
    assert 'installed without kernels_avx2.so' in built.stdout
    assert not list(tmp_path.rglob('*.so'))


@pytest.mark.slow
def test_colcon_installs_what_ros_looks_up(sources, prefix):
    assert (prefix / f'share/ament_index/resource_index/packages/{NAME}').is_file()
    for name in (f'{NAME}/package.xml', *_shared_files(sources)):
        assert (prefix / 'share' / name).is_file(), name
    for name in PROGRAMS:  # where `ros2 run thermal_nerf_loc NAME` looks
        assert os.access(prefix / f'lib/{NAME}' / name, os.X_OK)


@pytest.mark.slow
def test_program_installed_by_colcon_runs(prefix):
    program = prefix / f'lib/{NAME}/thermal-nerf-loc'
    told = _run(['bash', '-c', f'source local_setup.sh && {program} --version'], cwd=prefix.parent)
    assert thermal_nerf_loc.__version__ in told.stdout


def _shared_files(root: Path) -> set[str]:
    return {f'{NAME}/{folder}/{path.name}' for folder in ('config', 'config/sros2', 'launch')
            for path in (root / folder).glob('*')
            if path.is_file() and not path.name.startswith('.')}


def _run(command, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def _instructions() -> list[tuple[str, str]]:
    """What the Dockerfile says, in order, with lines that go on joined."""
    text = (ROOT / 'environment/Dockerfile').read_text(encoding='utf-8')
    lines = [line for line in text.splitlines() if not line.lstrip().startswith('#')]
    joined = '\n'.join(lines).replace('\\\n', ' ')
    return [(word, rest) for word, _, rest in
            (line.partition(' ') for line in joined.splitlines() if line.strip())]


def test_dockerfile_is_well_formed():
    steps = _instructions()
    assert {word for word, _ in steps} <= {'ARG', 'FROM', 'SHELL', 'ENV', 'RUN', 'COPY',
                                           'ENTRYPOINT', 'CMD'}
    assert [word for word, _ in steps][:2] == ['ARG', 'FROM']
    assert steps[0][1].startswith('ROS_IMAGE=ros:')
    for word, rest in steps:
        if word == 'RUN':  # as the shell of the image would read it
            told = subprocess.run(['bash', '-n', '-c', rest], capture_output=True, text=True)
            assert told.returncode == 0, told.stderr
        if word in ('ENTRYPOINT', 'CMD', 'SHELL'):
            assert isinstance(ast.literal_eval(rest), list)


def test_dockerfile_copies_all_that_the_package_is_built_from(tmp_path):
    """Its COPY and colcon steps, run in a clean folder."""
    sources = tmp_path / 'src' / NAME
    for word, rest in _instructions():
        if word != 'COPY':
            continue
        *names, target = rest.replace('${SOURCES}', str(sources)).split()
        for name in names:
            assert (ROOT / name).exists(), name
            if (ROOT / name).is_dir():
                shutil.copytree(ROOT / name, target, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns('__pycache__', '*.so'))
            else:
                Path(target).mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, target)
    built = _run([sys.executable, 'setup.py', '--quiet', 'build_py', '--build-lib',
                  tmp_path / 'out'], cwd=sources)
    assert built.returncode == 0
    assert (tmp_path / 'out' / NAME / 'ros/localizer_node.py').is_file()


def test_changelog_of_bloom_is_that_of_people():
    spec = importlib.util.spec_from_file_location('changelog_rst',
                                                  ROOT / 'environment/changelog_rst.py')
    assert spec is not None and spec.loader is not None
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    made = program.converted((ROOT / 'CHANGELOG.md').read_text(encoding='utf-8'))
    assert (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8') == made, (
        'CHANGELOG.rst is stale: run python environment/changelog_rst.py')


@pytest.mark.filterwarnings('ignore::DeprecationWarning')
def test_bloom_reads_the_changelog_and_the_urls(capfd):
    changelogs = pytest.importorskip('catkin_pkg.changelog', reason='needs catkin_pkg')
    text = (ROOT / 'CHANGELOG.rst').read_text(encoding='utf-8')
    # on the day of a release the title says when
    released = text.replace('Forthcoming\n-----------', '0.1.0 (2026-01-31)\n------------------')
    changelog = changelogs.get_changelog_from_path(str(ROOT / 'CHANGELOG.rst'), NAME)
    changelogs.populate_changelog_from_rst(changelog, released)
    ((version, _, content),) = changelog.foreach_version()
    assert version == '0.1.0'
    assert len(content) > 0
    assert 'ERROR' not in capfd.readouterr().err
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    assert {tag.get('type') for tag in manifest.iter('url')} == {'website', 'repository',
                                                                 'bugtracker'}


def test_workspace_file_names_this_repository():
    yaml = pytest.importorskip('yaml')
    listed = yaml.safe_load((ROOT / 'environment/workspace.repos').read_text())['repositories']
    manifest = ElementTree.parse(ROOT / 'package.xml').getroot()
    urls = [tag.text for tag in manifest.iter('url') if tag.get('type') == 'repository']
    assert listed[NAME]['type'] == 'git'
    assert [listed[NAME]['url']] == [f'{url}.git' for url in urls]


@pytest.mark.slow
def test_wheel_runs_in_an_empty_environment(sources, tmp_path):
    """Built as for a release; its requirements are those of this environment, by a path file."""
    try:
        has_build = importlib.util.find_spec('build.__main__') is not None
    except ModuleNotFoundError:  # not installed, or a folder of this name
        has_build = False
    builder = (['build', '--wheel', '--no-isolation', '--outdir', tmp_path] if has_build else
               ['pip', 'wheel', '--quiet', '--no-deps', '--no-build-isolation', '--wheel-dir',
                tmp_path])
    _run([sys.executable, '-m', *builder, sources])
    (path,) = tmp_path.glob('*.whl')
    _run([sys.executable, '-m', 'venv', tmp_path / 'venv'])
    python = tmp_path / 'venv/bin/python'
    _run([python, '-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', path])
    (packages,) = (tmp_path / 'venv/lib').glob('python*/site-packages')
    here = [folder for folder in sys.path if folder.endswith('site-packages')]
    (packages / 'requirements.pth').write_text('\n'.join(here))
    clean = {name: value for name, value in os.environ.items() if name != 'PYTHONPATH'}
    told = _run([tmp_path / 'venv/bin/thermal-nerf-loc', '--version'], cwd=tmp_path, env=clean)
    assert thermal_nerf_loc.__version__ in told.stdout
    where = _run([python, '-c', f'import {NAME}; print({NAME}.__file__)'], cwd=tmp_path, env=clean)
    assert where.stdout.startswith(str(packages))
