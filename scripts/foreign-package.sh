#!/bin/bash
# Downloads a Debian package of any architecture into the current directory, without touching apt's own configuration:
#   [SUITE=sid] foreign-package.sh ARCHITECTURE PACKAGE
set -euo pipefail
. "$(dirname "$0")/foreign-apt.sh"
architecture=$1 package=$2
foreign_apt "$architecture" "${SUITE:-}"
foreign_get download "$package:$architecture"
ls "$PWD/${package}"_*_"$architecture".deb
