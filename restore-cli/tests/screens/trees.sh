# Dumps and restores of a tree without GPUs, in a pid namespace of its own.
pids() { echo "$1" >/proc/sys/kernel/ns_last_pid; }
start() {
    mkfifo ready
    pids 200
    setsid "$EXAMPLES/workload" "$PWD/status" 2 1 1 </dev/null >ready 2>&1 &
    cat ready
    rm ready
    pids 2000
}
# Processes of the tree. Not every machine has pgrep.
workloads() {
    for file in /proc/[0-9]*/comm; do
        read -r name 2>/dev/null <"$file" && [ "$name" = workload ] || continue
        folder=${file%/comm}
        echo "${folder#/proc/}"
    done
}
end() {
    kill -KILL $(workloads)
    while [ -n "$(workloads)" ]; do :; done
}
here() { printf '%s' "$(workloads | tr '\n' ' ')"; echo "are there"; }
new() { rm -rf "$1" && mkdir "$1"; }

start
new a && t dump -t 201 -D a -R
t dump -t 201 -D a -R
new a && t --width 40 dump --tree 201 --images-dir a --leave-running
new a && t --width 140 --color always dump -t 201 -D a -R
new a && t dump -t 201 -D a -R -v0
new a && t dump -t 201 -D a -R --json --report a.json --report a.html
ls a.json a.html
new a && t dump -t 201 -D a -R -o dump.log -v4 --work-dir . --link-remap --ghost-limit 2M \
    --manage-cgroups=ignore --workers 1 --timeout 60 --shell-job --progress-fd 9 9>progress
grep -v 'steps$' dump.log
grep -q memory_bytes progress && echo there are bytes
grep stage progress | cut -d, -f2
ls stats-dump
new a && t dump -t 201 -D a -R -v3
new a && t dump -t 201 -D a -R --freeze-cgroup /nowhere
new a && t dump -t 201 -D a -R -v4 -o dump.log --file-locks --ext-unix-sk --tcp-close \
    --tcp-established --skip-in-flight --network-lock skip --force-irmap --irmap-scan-path / \
    --evasive-devices --ghost-fiemap --no-ghost-fiemap --pre-dump-mode read --pidfile p \
    --display-stats --cpu-cap=all --enable-external-sharing --enable-external-masters \
    --mntns-compat-mode --no-mntns-compat-mode --enable-fs all
grep 'no effect' a/dump.log
new a && t dump -t 201 -D a -R -l -x
new a && t dump -t 201 -D a --leave-stopped
end
start
new b && t dump -t 201 -D b
here
t show -D b --process 201
t check -D b
t --width 40 check -D b
t check -D b --json --manage-cgroups=ignore -j --leave-stopped --huge-pages never --workers 1
t plan -D b
t plan -D b --json
t restore -d -D b
here
t restore -d -D b
printf '$ thaw check -D b | sort\n'
"$THAW" check -D b | sort
end
t restore --restore-detached --images-dir b --pidfile pid -o restore.log -v4 -W . \
    --trace run.jsonl --report run.json --report run.html --progress-fd 9 9>progress
cat pid; echo
sed 's/worker [0-9]*/worker N/; s/pid 20[0-9]: [a-z]* took/pid P: STAGE took/' restore.log | uniq
grep stage progress | cut -d, -f2
end
t restore -d -D b --pidfile pid
rm pid
t restore -d -D b --json --workers 2 --huge-pages never --shell-job --manage-cgroups=ignore \
    --schedule serial --timeout 60
end
t --color always restore -d -D b
end
t --width 40 restore -d -D b -v2 --verbosity=1
end
t restore -d -D b -s
grep -h '^State' /proc/201/status
end
t restore -d -S -D b
end
t restore -d -D b --link-remap --force-irmap --irmap-scan-path / --skip-in-flight --file-locks \
    --ext-unix-sk --tcp-established --tcp-close --evasive-devices --ghost-limit 1M \
    --enable-external-sharing --enable-external-masters --mntns-compat-mode \
    --no-mntns-compat-mode --enable-fs all --display-stats --network-lock skip --cpu-cap \
    -v4 -o restore.log
grep 'no effect' b/restore.log
end
t plan -D b --link-remap --force-irmap --irmap-scan-path / --skip-in-flight --file-locks \
    --ext-unix-sk --tcp-established --tcp-close --evasive-devices --ghost-limit 1M \
    --enable-external-sharing --enable-external-masters --mntns-compat-mode \
    --no-mntns-compat-mode --enable-fs all --display-stats --network-lock skip --cpu-cap \
    -v1 -o plan.log -W . -d -s -S -j --pidfile p --timeout 5 --manage-cgroups --huge-pages auto \
    --workers 1 --gpu-map 0x1=0x2 --verify --copy-buffer 1M --schedule seed:1 --report p.json \
    --progress-fd 1 --trace p.jsonl
t restore -d -D b --trace /nowhere/run.jsonl
t restore -d -D b --report /nowhere/run.json
t restore -d -D b -o /nowhere/log
