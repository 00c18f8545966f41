# A trace that is kept with this file: judged, drawn, and turned into a schedule.
cp "$SCREENS/example.jsonl" run.jsonl
t trace check run.jsonl
t trace check --json run.jsonl
t trace view --format text run.jsonl
t --width 60 trace view --format text run.jsonl
t --width 140 trace view --format text run.jsonl
head_of 5 trace view run.jsonl
t trace view -o run.svg run.jsonl
head_of 3 trace view --format chrome run.jsonl
t trace order run.jsonl
t trace order -o run.order run.jsonl
sed '1d' run.jsonl >cut.jsonl
t trace check cut.jsonl
# The end of one device file after the begin of the next one of its process.
sed '3s/"end_ns":[0-9]*/"end_ns":99999999999999/' run.jsonl >illegal.jsonl
t trace check illegal.jsonl
t trace check missing.jsonl
