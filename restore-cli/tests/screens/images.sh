# Images as text and JSON, on checkpoints that are kept with the tests.
cp -r "$FIXTURES/gpu-tree" tree
find tree -exec touch -d 2026-01-01T00:00:00Z {} +
t image decode -i tree/pstree.img
t image decode --in tree/ids-28866.img --pretty
t image decode -i tree/fs-28866.img --nopl --out fs.json
t image encode -i fs.json -o fs.img
t image diff tree/fs-28866.img fs.img
t image diff --json tree/fs-28866.img fs.img
t image diff tree/fs-28866.img tree/ids-28866.img
printf '$ thaw image decode --name amdgpu-renderD-21.img <tree/amdgpu-renderD-21.img\n'
"$THAW" image decode --name amdgpu-renderD-21.img <tree/amdgpu-renderD-21.img | head -c 200
echo
t image show tree/fs-28866.img
t image show --nopl tree/inventory.img
t image info tree/core-28866.img
for what in ps fds mems rss gpu; do head_of 12 image x tree "$what"; done
t image x tree ps --json
t image verify tree
t image verify --json tree
t image info missing.img
t show -D tree
t --width 40 show -D tree
t --width 140 show -D tree
t --color always show -D tree
head_of 40 show -D tree --process 28866
head_of 20 --width 40 show -D tree --process 28867
t show -D missing
printf '$ thaw show -D tree --json\n'
"$THAW" show -D tree --json | head -c 300
echo
