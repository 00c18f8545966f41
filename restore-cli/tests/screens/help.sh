# Help of every command, at several widths, with and without colour.
t --help
t -h
t --width 40 --help
t --width 140 -h
t --color always --width 80 -h
for command in dump restore plan check show trace explore image node generate; do
    t --width 80 "$command" --help
done
t --width 40 restore -h
t --width 140 dump -h
for command in check view order; do t --width 80 trace "$command" --help; done
for command in decode encode show info x verify diff; do t --width 80 image "$command" --help; done
for command in run list-models fault; do t --width 80 node "$command" --help; done
for command in man completions options; do t --width 80 generate "$command" --help; done
t --version
t -V
mkdir man
t generate man man
ls man
head -n 12 man/thaw-trace-check.1 | sed 's/"thaw [^"]*"/"thaw VERSION"/'
head_of 3 generate completions bash
head_of 3 generate completions fish
head_of 3 generate completions zsh
printf '$ thaw generate options\n'
"$THAW" generate options | head -c 300
echo
