# What the other scripts here share: Debian's packages and their sources, from the mirror of this machine.
# Sourced, with $work set to a directory and a function `fail`.

releases=(trixie bookworm) # whose sources they are
cache=${IPCIO_CI_CACHE-${XDG_CACHE_HOME-$HOME/.cache}/ipcio-ci}

# Where the machine's own packages are from; nothing where apt has no lists yet.
find_mirror() {
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk '$2 !~ /security|updates|backports/ && !found++ { print $1 }'
}

# Install packages of this machine's own release, unless they are there.
need() {
    export DEBIAN_FRONTEND=noninteractive
    local states # one that was removed is known still
    states=$(dpkg-query -W -f '${db:Status-Status}\n' "$@" 2>/dev/null) && ! grep -qvx installed <<<"$states" && return
    apt-get -o DPkg::Lock::Timeout=600 update -qq
    apt-get -o DPkg::Lock::Timeout=600 install -y -qq --no-install-recommends "$@" >/dev/null ||
        fail "what it is built with cannot be installed"
}

# Run a command of apt that knows the source packages of $releases and nothing else.
apt_with_sources() {
    "$@" -o Dir::Etc::SourceList="$work/apt/sources.list" -o Dir::Etc::SourceParts=/dev/null \
        -o Dir::State::Lists="$work/apt/lists" -o Dir::Cache="$work/apt/cache" \
        -o Acquire::Retries=3 -o Acquire::Check-Valid-Until=false -o APT::Sandbox::User=root
}

list_sources() {
    local mirror
    mirror=$(find_mirror)
    [[ $mirror ]] || { apt-get -o DPkg::Lock::Timeout=600 update -qq && mirror=$(find_mirror); }
    [[ $mirror ]] || fail "the machine's apt has no source of Debian's packages"
    mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
    printf "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror %s main\n" "${releases[@]}" \
        >"$work/apt/sources.list"
    apt_with_sources apt-get update -qq || fail "apt gives no list of the source packages"
}

# Print the versions of a source package, the newest first.
versions_of() {
    local versions
    versions=$(apt_with_sources apt-cache showsrc "$1" 2>/dev/null | sed -n 's/^Version: //p' | sort -rVu)
    [[ $versions ]] || fail "Debian has no source package $1"
    echo $versions
}

# Unpack a source package, as its makers publish it, into $work/source/NAME; apt checks it against its signed lists.
# The newest version that can be fetched: a mirror may not have the files of every version that it lists.
unpack() {
    local name=$1 place=$work/source/$1 version
    for version in $(versions_of "$name"); do
        rm -rf "$place" "$place.packed"
        mkdir -p "$place" "$place.packed"
        (cd "$place.packed" && apt_with_sources apt-get source -qq --download-only "$name=$version" >/dev/null) || continue
        tar -x --strip-components=1 -C "$place" -f "$(find "$place.packed" -name '*.orig.tar.*' ! -name '*.asc')" || fail "$name $version cannot be unpacked"
        rm -rf "$place.packed"
        return
    done
    fail "no version of the source package $name can be fetched"
}

# Where a build is kept: under a name for the compiler, the versions of its sources and whatever else is given.
kept_as() {
    local name=$1
    shift
    echo "$cache/$name-$({ echo "${*@Q}"; gcc -dumpfullversion -dumpmachine; } | sha256sum | cut -c 1-12)"
}

# Move what was installed below DESTDIR to where it is kept; another run that builds the same may be first.
keep() {
    local destdir=$1 kept=$2 python=$3
    find "$destdir" -name test -type d -prune -exec rm -rf {} +
    mkdir -p "$cache"
    mv -T "$destdir$kept" "$kept" 2>/dev/null || [[ -x $kept/bin/$python ]] || fail "it cannot be kept in $cache"
}

# Make $work/venv, with pytest and ipcio.  The Python was built without ssl, so that of the machine fetches the packages.
make_environment() {
    local python=$1
    shift
    rm -rf "$work/venv"
    "$python" -m venv "$work/venv"
    python3 -m venv "$work/fetch"
    "$work/fetch/bin/pip" wheel -q -w "$work/wheels" '.[test]' pytest-xdist
    "$work/venv/bin/pip" install -q --no-index --find-links "$work/wheels" ipcio pytest pytest-timeout pytest-xdist
}
