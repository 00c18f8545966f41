# What is wrong with a command line, and options of criu that are refused or make no difference.
t
t restroe
t restore
t restore -D images --roots
t dump -D images -t 0
t dump -D images -t 1 --ghost-limit many
t --width 39 plan -D images
t restore -D images -S
t restore -D images --schedule random
t restore -D images --gpu-map 1
t node run --gpus 9 true
t node run --model gfx803 true
t node run --gpus 2 --vram 1G,2G,3G true
t image x images trees
t restore -D images --progress-fd 77
printf 'colour = "never"\n' >wrong.toml
t restore -D images --no-default-config --config wrong.toml
printf '[restore]\nshell-job = "yes"\n' >wrong.toml
t restore -D images --config wrong.toml
t restore -D images --config missing.toml
printf 'color = "always"\n[restore]\nverbosity = 1\n' >right.toml
t restore -D images --config right.toml
NO_COLOR=1 t restore -D images
t --color always restore -D images
t --color never --width 40 restore -D images
t restore -v0 -D images
t restore --json -D images
t restore -D images --root / --cgroup-root / --cgroup-yard / --external a --inherit-fd a \
    --join-ns a --empty-ns net --ext-mount-map a --veth-pair a --action-script a --lazy-pages \
    --auto-dedup --stream --unprivileged --exec-cmd --freeze-cgroup a --lsm-profile a \
    --lsm-mount-context a
t dump -D images -t 1 --root / --external a --empty-ns net --ext-mount-map a --veth-pair a \
    --cgroup-root / --cgroup-yard / --cgroup-dump-controller a --action-script a --track-mem \
    --prev-images-dir a --pre-dump --auto-dedup --page-server --address a --port 1 --lazy-pages \
    --status-fd 1 --stream --unprivileged --lsm-profile a --lsm-mount-context a --allow-uprobes
t plan -D images --root / --cgroup-root / --cgroup-yard / --external a --inherit-fd a \
    --join-ns a --empty-ns net --ext-mount-map a --veth-pair a --action-script a --lazy-pages \
    --auto-dedup --stream --unprivileged --exec-cmd --freeze-cgroup a --lsm-profile a \
    --lsm-mount-context a
