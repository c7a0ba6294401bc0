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
    # Another suite of the same archive; the security archive has no counterpart there.
    for list in "$state"/sources.list.d/*.sources; do
        [ -e "$list" ] || continue
        awk -v RS= -v ORS='\n\n' '!/-security/' "$list" | sed -E "s/^Suites:.*/Suites: $SUITE/" >"$list.new"
        mv "$list.new" "$list"
    done
    sed -Ei "/-security/d; s/^(deb (\[[^]]*\] )?[^ ]+) [^ ]+/\1 $SUITE/" "$state/sources.list"
fi
apt-get "${options[@]}" update -q >"$state/log" 2>&1 || { cat "$state/log" >&2; exit 1; }
apt-get "${options[@]}" download -q "$package:$architecture" >"$state/log" 2>&1 || { cat "$state/log" >&2; exit 1; }
ls "$PWD/${package}"_*_"$architecture".deb
