#!/bin/bash
# Unpacks packages of another Debian suite, with all that they depend on, into a directory that one can chroot into:
#   foreign-root.sh DIRECTORY SUITE PACKAGE...
# Nothing is configured and no script of a package runs. Safe to repeat: a directory that has these packages already stays as it is.
set -euo pipefail
. "$(dirname "$0")/foreign-apt.sh"
directory=$1 suite=$2
shift 2
stamp=$directory/.packages
[ "$(cat "$stamp" 2>/dev/null)" = "$suite $*" ] && exit
echo "unpacking $* of $suite into $directory"
foreign_apt "$(dpkg --print-architecture)" "$suite"
foreign_get install -y --download-only --no-install-recommends "$@"
rm -rf "$directory"
mkdir -p "$directory"/usr/{bin,lib,lib64,sbin} "$directory"/{dev,tmp}
for name in bin lib lib64 sbin; do ln -s "usr/$name" "$directory/$name"; done
for package in "$foreign_state"/archives/*.deb; do dpkg-deb --fsys-tarfile "$package" | tar -x -C "$directory" --keep-directory-symlink; done
mknod -m 666 "$directory/dev/null" c 1 3
echo "$suite $*" >"$stamp"
