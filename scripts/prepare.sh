# Prepares the machine, configures and builds: the part that ./formwork and ./check share.
# Sourced by both, with `root` set to the project's folder. Everything it says goes to stderr.
# Works with bash 3.2, which macOS still has.

torch_wanted=2.13.0
torch_oldest=2.11
state=$root/.formwork
build=$root/build
packages_file=$root/scripts/packages.txt

say() { printf 'formwork: %s\n' "$*" >&2; }
stop() { local code=$1; shift; say "$*"; exit "$code"; }

# Only one copy prepares and builds; the others wait here. The lock lives on file descriptor 9.
take_lock() {
  mkdir -p "$state" 2>/dev/null && : >>"$state/lock" 2>/dev/null ||
    stop 1 "$state: cannot write there; the project's folder must belong to you, or be copied to one that does."
  exec 9>>"$state/lock"
  lock_9 nb && return
  say "another copy is preparing or building; waiting for it."
  lock_9 || stop 1 "$state/lock: cannot be locked."
}
lock_9() {
  if command -v flock >/dev/null; then flock ${1:+-n} 9
  else python3 -c "import fcntl, sys; fcntl.flock(9, fcntl.LOCK_EX | (fcntl.LOCK_NB if sys.argv[1:] else 0))" \
         ${1:+nb} 2>/dev/null
  fi
}
release_lock() { exec 9>&-; }

# Runs a command quietly; its output is shown only when it fails.
quietly() {
  local log=$state/prepare.log
  if ! "$@" >"$log" 2>&1 9>&-; then
    cat "$log" >&2
    return 1
  fi
}

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }
may_be_root() {
  [ "$(id -u)" = 0 ] && return
  command -v sudo >/dev/null || return 1
  sudo -n true 2>/dev/null || { [ -t 0 ] && [ -t 2 ]; }
}

# Prints the packages of the given groups; with "missing" first, those this machine lacks.
list_packages() {
  local only_missing='' group package command rest installed=''
  if [ "$1" = missing ]; then
    only_missing=1; shift
    installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | sed -n 's/ installed$//p')
  fi
  while read -r group package command rest; do
    case " $* " in *" $group "*) ;; *) continue ;; esac
    if [ -n "$only_missing" ]; then
      [ "$command" != - ] && command -v "$command" >/dev/null && continue
      case $'\n'"$installed"$'\n' in *$'\n'"$package"$'\n'*) continue ;; esac
    fi
    printf '%s ' "$package"
  done < <(grep -v '^#' "$packages_file")
}

prepare_packages() {  # groups...
  local stamp=$state/packages-$* key missing
  stamp=${stamp// /-}
  key=$(cksum <"$packages_file")
  [ -f "$stamp" ] && [ "$(<"$stamp")" = "$key" ] && return
  packages_stamp=$stamp packages_key=$key
  if ! command -v apt-get >/dev/null || ! command -v dpkg-query >/dev/null; then
    packages_hint="This is no Debian: install what stands for $(list_packages "$@")by your own means"
    [ "$(uname)" = Darwin ] && packages_hint="On macOS: brew install cmake ninja ccache tomlplusplus cli11 \
nlohmann-json xxhash zlib libpng googletest llvm clang-format"
    say "$packages_hint; going on with what is here."
    return
  fi
  missing=$(list_packages missing "$@")
  [ -n "$missing" ] || return 0
  if ! may_be_root; then
    packages_hint="Missing here: ${missing}(sudo apt-get install ${missing% })"
    say "$packages_hint; neither root nor sudo is at hand, going on with what is here."
    return
  fi
  say "installing with apt: ${missing% }"
  quietly as_root apt-get -o DPkg::Lock::Timeout=600 -qq update ||
    say "apt-get update failed (above); trying to install all the same."
  # shellcheck disable=SC2086  # a list of words
  quietly as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 -qq -y \
    --no-install-recommends install $missing ||
    say "apt could not install ${missing% }: its words are above; going on with what is here."
}

# The version of the libtorch in folder $1, or nothing where there is none.
version_of_torch() {
  sed -n 's/^set(PACKAGE_VERSION "\([0-9.]*\).*/\1/p' "$1/share/cmake/Torch/TorchConfigVersion.cmake" 2>/dev/null || true
}
at_least() {  # version oldest
  local a1=${1%%.*} b1=${2%%.*} a2=${1#*.} b2=${2#*.}
  a2=${a2%%.*} b2=${b2%%.*}
  [ "$a1" -gt "$b1" ] || { [ "$a1" -eq "$b1" ] && [ "$a2" -ge "$b2" ]; }
}

# Sets `libtorch` and `torch_version`: what the user names, or the wheel in the private environment.
prepare_libtorch() {
  if [ -n "${FORMWORK_LIBTORCH:-}" ]; then
    libtorch=$FORMWORK_LIBTORCH
    torch_version=$(version_of_torch "$libtorch")
    [ -n "$torch_version" ] || stop 2 "FORMWORK_LIBTORCH=$libtorch: no libtorch there (share/cmake/Torch is missing); \
name a folder that holds include, lib and share: an unpacked libtorch or Python's torch package, $torch_oldest or newer."
    at_least "$torch_version" "$torch_oldest" || stop 2 "FORMWORK_LIBTORCH=$libtorch: this is libtorch \
$torch_version; Formwork needs $torch_oldest or newer."
    return
  fi
  find_wheel && [ "$torch_version" = "$torch_wanted" ] && [ ! -e "$state/venv-incomplete" ] && return
  install_wheel
  find_wheel || stop 1 "pip installed torch $torch_wanted, but $state/venv holds no libtorch."
}
find_wheel() {
  for libtorch in "$state"/venv/lib/python3*/site-packages/torch; do
    torch_version=$(version_of_torch "$libtorch")
    [ -n "$torch_version" ] && return
  done
  return 1
}
install_wheel() {
  command -v python3 >/dev/null || stop 1 "python3 is missing: it fetches libtorch (or name one in FORMWORK_LIBTORCH)."
  say "installing libtorch: pip package torch==$torch_wanted into $state/venv"
  [ -n "${FORMWORK_TORCH_PIP_ARGS:-}${PIP_INDEX_URL:-}" ] || [ "$(uname)" = Darwin ] ||
    say "pip may choose a CUDA build of several gigabytes; for the CPU build (200 MB) interrupt now and set \
FORMWORK_TORCH_PIP_ARGS='--index-url ADDRESS' with the address of PyTorch's CPU wheel index (its \"Get started\" page has it)."
  # A wheel that was cut off half-way looks complete: start again.
  [ -e "$state/venv-incomplete" ] && rm -rf "$state/venv"
  : >"$state/venv-incomplete"
  [ -x "$state/venv/bin/python" ] || quietly python3 -m venv "$state/venv" ||
    stop 1 "python3 -m venv failed (above); on Debian the package python3-venv is needed."
  local pip=("$state/venv/bin/python" -m pip install --disable-pip-version-check)
  # shellcheck disable=SC2206  # several arguments
  pip+=(${FORMWORK_TORCH_PIP_ARGS:-} "torch==$torch_wanted")
  if [ -t 2 ]; then "${pip[@]}" >&2 9>&-; else quietly "${pip[@]}"; fi ||
    stop 1 "pip could not install torch==$torch_wanted: its words are above; FORMWORK_TORCH_PIP_ARGS is passed on to \
pip, FORMWORK_LIBTORCH names a libtorch (>= $torch_oldest) that is already here."
  rm -f "$state/venv-incomplete"
}

# Configures the folder build, once for each libtorch and kind of use. $1: ON with the tests, OFF without
# (a folder that has them keeps them).
configure() {
  local key="libtorch $libtorch $torch_version, tests" have='' log=$state/configure.log tests=$1
  [ -f "$build/build.ninja" ] && [ -f "$build/.configured" ] && have=$(<"$build/.configured")
  [ "$have" = "$key ON" ] || [ "$have" = "$key $1" ] && return
  say "configuring ($build)"
  local tool
  for tool in cmake ninja; do
    command -v $tool >/dev/null || stop 1 "$tool is missing.${packages_hint:+ $packages_hint.}"
  done
  rm -f "$build/.configured"
  grep -qs '^FORMWORK_TESTS:BOOL=ON' "$build/CMakeCache.txt" && tests=ON
  if ! (cd "$root" && cmake --fresh --preset release -DFORMWORK_LIBTORCH="$libtorch" -DFORMWORK_TESTS="$tests") \
      >"$log" 2>&1 9>&-; then
    cat "$log" >&2
    if grep -qs '^cuda.*[0-9]' "$libtorch/version.py" && ! command -v nvcc >/dev/null; then
      say "this libtorch is a CUDA build and the CUDA toolkit (nvcc) is not here: install it, or choose the CPU build \
(rm -r $state/venv, then FORMWORK_TORCH_PIP_ARGS as said in CONTRIBUTING.md)."
    fi
    stop 1 "cmake could not configure: its words are above.${packages_hint:+ $packages_hint.}"
  fi
  printf '%s' "$key $tests" >"$build/.configured"
}

cores() { nproc 2>/dev/null || sysctl -n hw.ncpu 2>/dev/null || echo 1; }

# One job a core, and 1.5 GB of free memory for each.
jobs_that_fit() {
  local cores megabytes='' limit used fit
  cores=$(cores)
  [ -r /proc/meminfo ] && megabytes=$(awk '/^MemAvailable/ {print int($2 / 1024)}' /proc/meminfo)
  [ -n "$megabytes" ] || megabytes=$(($(sysctl -n hw.memsize 2>/dev/null || echo 4294967296) / 1048576))
  if limit=$(cat /sys/fs/cgroup/memory.max 2>/dev/null) && [ "$limit" != max ]; then
    used=$(awk '/^(anon|slab_unreclaimable) / {sum += $2} END {print int(sum)}' /sys/fs/cgroup/memory.stat 2>/dev/null)
    limit=$(((limit - ${used:-0}) / 1048576))
    [ "$limit" -lt "$megabytes" ] && megabytes=$limit
  fi
  fit=$((megabytes / 1500))
  [ "$fit" -lt 1 ] && fit=1
  [ "$fit" -lt "$cores" ] && echo "$fit" || echo "$cores"
}

# Builds the given targets: progress on a terminal, elsewhere only what went wrong.
build() {
  local mark=$'\001' code
  [ -e "$build/.ninja_log" ] || say "building; the first time takes some minutes."
  NINJA_STATUS="$mark%f/%t " ninja -C "$build" -j "$(jobs_that_fit)" "$@" 2>&1 | show_build "$mark"
  code=${PIPESTATUS[0]}
  [ "$code" = 0 ] || stop 1 "the build failed."
  [ -z "${packages_stamp:-}" ] || printf '%s' "$packages_key" >"$packages_stamp"
}
show_build() {
  local line status last skip='' shown=''
  while IFS= read -r line; do
    case $line in
      "$1"*"Re-checking globbed"*) ;;  # each time, and at once
      "$1"*)
        if [ -t 2 ]; then
          status=${line#"$1"}
          last=${status#* }
          printf '\r\033[Kformwork: building %.80s' "${status%% *} ${last##*/}" >&2
          shown=1
        fi ;;
      "ninja: Entering directory"* | "ninja: no work to do."* | "ninja: build stopped"* | "-- "*) ;;
      "FAILED: "*) skip=1 ;;  # the next line is the command
      *)
        [ -n "$skip" ] && { skip=''; continue; }
        [ -n "$shown" ] && printf '\r\033[K' >&2
        shown=''
        printf '%s\n' "$line" >&2 ;;
    esac
  done
  [ -n "$shown" ] && printf '\r\033[K' >&2
  return 0
}
