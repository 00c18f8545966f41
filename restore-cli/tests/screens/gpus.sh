# Commands around GPUs, on emulated nodes in a pid namespace of their own.
pids() { echo "$1" >/proc/sys/kernel/ns_last_pid; }
t node list-models
t --width 60 node list-models
printf '$ thaw node list-models --json\n'
"$THAW" node list-models --json | head -n 12
cat >job.sh <<'JOB'
mkfifo ready
echo 300 >/proc/sys/kernel/ns_last_pid
PATH="$EXAMPLES:$PATH" setsid gpu_tree status 'fork:1 kfd render:0 render:1 vram:0:64K gtt:1:8K' \
    'kfd render:0 vram:0:64K' </dev/null >ready 2>&1 &
cat ready
echo 2000 >/proc/sys/kernel/ns_last_pid
"$THAW" dump -t 301 -D images 2>&1
JOB
mkdir images
t node run --gpus 2 --log calls.jsonl --no-preload -- sh job.sh
head -n 1 calls.jsonl | grep -c '"call":'
t node run --model gfx90a --gpus 2 --vram 1G --visible-vram 256M,1G --gpu-ids 17,18 \
    --minors 140,141 --firmware 80 --sdma-firmware 8 --cpu-nodes 2 --seed 3 -- sh -c \
    'ls /dev/dri; cat /sys/class/kfd/kfd/topology/nodes/*/gpu_id'
t node run --gpus 2 --remove-gpu 1 -- ls /dev/dri
t node run --fault VERSION=EIO -- "$THAW" node fault
t node run -- "$THAW" node fault GET_VERSION=EINTR
t node run -- "$THAW" node fault NOTHING=EIO
t node run -- /no/such/program
t node run -- sh -c 'exit 7'
t show -D images
t check -D images --gpu-map 0xf85e=0x1267
elsewhere='node run --gpus 2 --seed 7 --gpu-ids 4711,4712 --minors 133,131 --'
inside() {
    printf '$ thaw %s\n' "$*"
    "$THAW" $elsewhere "$THAW" "$@" 2>&1
    printf '(exit %s)\n\n' $?
}
# What else it says depends on the machine.
inside check | sed -n '1,6p; /^GPUs/,/^$/p'
inside --width 40 check --json | cut -c-60
inside check -D images
inside check -D images --gpu-map 0xf85e=0x1268,0xca1c=0x1267 --verify --copy-buffer 1M \
    --schedule seed:5 --restore-sibling
inside plan -D images
inside restore -d -D images --gpu-map 0xf85e=0x1268,0xca1c=0x1267 --verify --copy-buffer 1M \
    --schedule seed:5 --trace run.jsonl
inside trace order run.jsonl
"$THAW" trace order -o order run.jsonl
inside restore -d -D images --schedule order:order --schedule concurrent
t node run --gpus 1 -- "$THAW" restore -d -D images
t node run --gpus 2 --model gfx942 -- "$THAW" --width 80 restore -d -D images
t node run --gpus 2 --fault CRIU_RESTORE=ENOMEM -- "$THAW" restore -d -D images --schedule serial
t explore -D images --node '--gpus 2' --orders 2 --seed 4
t explore --images-dir images --node '--gpus 2' --orders 1 --json
