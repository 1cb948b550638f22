#!/bin/sh
# keep.sh NAME PROGRAM...: become the program, with its log in /var/log/lab/NAME.log.
# While /run/lab/NAME.hold exists the program is not started (a test's way to keep
# it dead); init starts this script again whenever the program ends.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 HOME=/root
name=$1
shift
while [ -e "/run/lab/$name.hold" ]; do
    sleep 0.2
done
mkdir -p /var/log/lab
log=/var/log/lab/$name.log
[ "$(stat -c %s "$log" 2>/dev/null || echo 0)" -gt 33554432 ] && mv "$log" "$log.old"
echo "--- $(date -u '+%F %T') start of $name" >> "$log"
exec "$@" >> "$log" 2>&1
