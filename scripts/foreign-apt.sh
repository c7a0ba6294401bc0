# apt for packages of another architecture or suite, without touching apt's own configuration. Source it.
#   foreign_apt ARCHITECTURE SUITE   SUITE is empty for this machine's own; then "${foreign_options[@]}" are apt-get's options
# What it needs lies in $foreign_state, which goes when the script ends.
foreign_state=$(mktemp -d)
trap 'rm -rf "$foreign_state"' EXIT
foreign_options=()

foreign_apt() {
    local architecture=$1 suite=$2 list
    mkdir -p "$foreign_state/lists/partial" "$foreign_state/archives/partial" "$foreign_state/sources.list.d"
    touch "$foreign_state/status"
    foreign_options=(
        -o "APT::Architecture=$architecture" -o "APT::Architectures::=$architecture"
        -o "Dir::State::lists=$foreign_state/lists" -o "Dir::State::status=$foreign_state/status" -o "Dir::Cache=$foreign_state"
        -o "Dir::Etc::sourcelist=$foreign_state/sources.list" -o "Dir::Etc::sourceparts=$foreign_state/sources.list.d"
        -o "APT::Sandbox::User=root"
    )
    # Only the distribution's own archive: other sources of this machine may not have the architecture.
    : >"$foreign_state/sources.list"
    for list in /etc/apt/sources.list /etc/apt/sources.list.d/*; do
        [ -e "$list" ] || continue
        case $list in
        *.sources) grep -q 'debian-archive-keyring' "$list" && cp "$list" "$foreign_state/sources.list.d/" ;;
        *) grep -hE '^deb .*debian' "$list" >>"$foreign_state/sources.list" || : ;;
        esac
    done
    if [ -n "$suite" ]; then
        # Another suite of the same archive; the security archive has no counterpart there.
        for list in "$foreign_state"/sources.list.d/*.sources; do
            [ -e "$list" ] || continue
            awk -v RS= -v ORS='\n\n' '!/-security/' "$list" | sed -E "s/^Suites:.*/Suites: $suite/" >"$list.new"
            mv "$list.new" "$list"
        done
        sed -Ei "/-security/d; s/^(deb (\[[^]]*\] )?[^ ]+) [^ ]+/\1 $suite/" "$foreign_state/sources.list"
    fi
    foreign_get update
}

# foreign_get ARGUMENT...: apt-get with these options; its words only if it fails.
foreign_get() {
    apt-get "${foreign_options[@]}" -q "$@" >"$foreign_state/log" 2>&1 || { cat "$foreign_state/log" >&2; return 1; }
}
