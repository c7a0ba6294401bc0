#!/bin/bash
# Downloads a Debian package of any architecture into the current directory, without touching apt's own configuration:
#   [SUITE=sid] foreign-package.sh ARCHITECTURE PACKAGE
set -euo pipefail
architecture=$1 package=$2
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/archives/partial"
touch "$state/status"
options=(
    -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture"
    -o "Dir::State::lists=$state/lists" -o "Dir::State::status=$state/status" -o "Dir::Cache=$state"
    -o "Dir::Etc::sourcelist=$state/sources.list" -o "Dir::Etc::sourceparts=$state/sources.list.d"
    -o "APT::Sandbox::User=root"
)
# Only the distribution's own archive: other sources of this machine may not have the architecture.
mkdir -p "$state/sources.list.d"
: >"$state/sources.list"
for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
    [ -e "$list" ] || continue
    case $list in
    *.sources) grep -q 'debian-archive-keyring' "$list" && cp "$list" "$state/sources.list.d/" ;;
    *) grep -hE '^deb .*debian' "$list" >>"$state/sources.list" || : ;;
    esac
done
if [ -n "${SUITE:-}" ]; then
    # Another suite of the same archive; security and update suites have no counterpart there.
    rm -f "$state"/sources.list.d/*security*
    sed -Ei "s/^(Suites:).*/\1 $SUITE/; /-security/d; s/^(deb (\[[^]]*\] )?[^ ]+) [^ ]+/\1 $SUITE/" "$state"/sources.list "$state"/sources.list.d/*
fi
apt-get "${options[@]}" update -q >"$state/log" 2>&1 || { cat "$state/log" >&2; exit 1; }
apt-get "${options[@]}" download -q "$package:$architecture" >"$state/log" 2>&1 || { cat "$state/log" >&2; exit 1; }
ls "$PWD/${package}"_*_"$architecture".deb
