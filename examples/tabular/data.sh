#!/usr/bin/env bash
# Fetches Debian's python3-sklearn, unpacks the breast cancer table of the University of Wisconsin from it (nothing is installed)
# and makes build/data/cancer.h5.
#     examples/tabular/data.sh [PROGRAM]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
program=${1:-build/cpu/lockstep}
mkdir -p build/data/packages
(cd build/data/packages && apt-get download python3-sklearn && dpkg -x python3-sklearn_*.deb .)
# Its first line counts rows and columns; the columns are without names.
tail -n +2 build/data/packages/usr/lib/python3/dist-packages/sklearn/datasets/data/breast_cancer.csv >build/data/cancer.csv
"$program" data csv build/data/cancer.csv --validation 0.2 -o build/data/cancer.h5
