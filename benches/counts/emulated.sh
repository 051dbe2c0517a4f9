#!/usr/bin/env bash
# What routing adds to a whole request, the kernel's part included: instructions, counted by an emulated machine whose
# clock they drive, so that a nanosecond of CPU is one of them. Nearly the same each time, on any machine.
#
#   benches/counts/emulated.sh [KERNEL]
#
# KERNEL is a Linux for x86-64, /boot/vmlinuz-* by default. Takes a minute once all is built.
set -euo pipefail

lacks() { echo "emulated: $1" >&2; exit 2; }
for tool in qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio; do
    command -v "${tool%%:*}" > /dev/null || lacks "there is no ${tool%%:*}; \`apt-get install ${tool#*:}\` brings it"
done
[[ "$(ldd "$(command -v busybox)" 2> /dev/null)" != *"=>"* ]] || lacks "busybox needs libraries; \`apt-get install busybox-static\` brings one that does not"
kernel="${1:-$({ find /boot -name 'vmlinuz-*' 2> /dev/null || true; } | sort -V | tail -n 1)}"
[ -r "$kernel" ] || lacks "no kernel can be read ${kernel:+at }${kernel:-in /boot}; \`apt-get install linux-image-cloud-amd64\` brings one"
kernel="$(realpath "$kernel")"

cd "$(dirname "${BASH_SOURCE[0]}")/../.."
counts="$(cargo --color never bench --locked -p qdrant-router-benches --bench counts --no-run 2>&1 | tee /dev/stderr |
    sed -n 's/^ *Executable .*(\(.*\))$/\1/p')"
[ -x "$counts" ] || lacks "the counts were not built"

work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
root="$work/root"
install -D "$counts" "$root/bin/counts"
install -D "$(command -v busybox)" "$root/bin/busybox"
ldd "$counts" | grep -o '/[^ ]*' | while read -r library; do install -D "$library" "$root$library"; done
mkdir "$root/proc" "$root/dev" "$root/etc"
# It is read, though no name is asked for.
echo "nameserver 127.0.0.1" > "$root/etc/resolv.conf"
cat > "$root/init" << 'END'
#!/bin/busybox sh
busybox mount -t proc none /proc
busybox mount -t devtmpfs none /dev
busybox ifconfig lo 127.0.0.1 netmask 255.0.0.0 up
# What the firmware wrote last is no whole line.
echo
counts --requests | while read -r request; do
    echo "counted $request = $(counts --case "$request" 2000)"
done
busybox poweroff -f
END
chmod +x "$root/init"
initrd="$work/initrd"
(cd "$root" && find . | cpio --quiet -o -H newc) | gzip > "$initrd"

timeout 600 qemu-system-x86_64 -accel tcg -cpu max -icount shift=0,sleep=off -m 1024 -nographic -no-reboot -nic none \
    -kernel "$kernel" -initrd "$initrd" -append "console=ttyS0 quiet panic=-1 rdinit=/init" < /dev/null |
    tr -d '\r' | awk '
        BEGIN { printf "%-40s %14s %14s %8s\n", "", "instructions", "routing", "share" }
        /^counted .* = [0-9]+ [0-9]+ [1-9][0-9]*$/ {
            name = $0; sub(/^counted /, "", name); sub(/ = .*/, "", name)
            # Each comes with routing first.
            each = $NF / $(NF - 2)
            if (sub(/, routing off$/, "", name) == 0) { with[name] = each; next }
            if (name in with) {
                more = with[name] - each
                printf "%-40s %14d %14d %7.1f%%\n", name, with[name], more, 100 * more / with[name]
                pairs++
            }
            next
        }
        /^counted / { failed++; print > "/dev/stderr" }
        END {
            if (!pairs) print "nothing was counted: does the kernel start, and keep schedstat in /proc?" > "/dev/stderr"
            if (!pairs || failed) exit 1
        }'
