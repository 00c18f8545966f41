# Runs a script with `t`, which shows a command line of thaw and what it prints, in order.
t() {
    printf '$ thaw %s\n' "$*"
    "$THAW" "$@" 2>&1
    printf '(exit %s)\n\n' $?
}
# The same, of which only some lines are shown.
head_of() {
    count=$1
    shift
    printf '$ thaw %s\n' "$*"
    "$THAW" "$@" 2>&1 | head -n "$count"
    printf '...\n\n'
}
export LC_ALL=C
. "$1"
