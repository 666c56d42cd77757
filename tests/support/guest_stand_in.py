"""A stand-in for virtme-run: its guest is this very machine, and up at once."""

from __future__ import annotations

VIRTME = """#!/bin/sh
while [ "$1" != --rwdir ]; do shift; done
shared=${2#*=}
if [ -e "$shared/no-boot" ]; then echo "Kernel panic - not syncing" >&2; exit 255; fi
echo "pointsman.vm: up after 1.5 s"
sed "s:/run/pointsman:$shared:g" "$shared/job.sh" > "$shared/../job.sh"
exec sh "$shared/../job.sh"
"""
"""It runs the job, with the shared directory where it is; with a file `no-boot` in that it dies before."""
