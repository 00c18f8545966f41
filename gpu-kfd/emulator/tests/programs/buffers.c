/*
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * Buffers of the KFD and of render nodes, in one process or two, made as the command line says
 * and then watched until SIGTERM: whether each still holds what was written to it, seen through
 * the mapping that was made at the start and, for GEM buffers, through a mapping that is made
 * anew by handle, and whether what is shared is still shared. It exists for checkpoints: which
 * buffers, files and handles a process has, and in which order, decides what a restorer must get
 * right. It does not stop at what is wrong, so that all of it is seen, and it submits no work to
 * any GPU.
 *
 *   buffers STATUSFILE WORD ... [child WORD ...]
 *
 * Words are carried out in turn; those after `child` by a second process, which is forked before
 * the first word:
 *   kfd       open /dev/kfd and all render nodes through libhsakmt
 *   vram:G    memory of GPU G that the host sees, through libhsakmt
 *   gtt:G     system memory for GPU G, through libhsakmt
 *   kfdbo:G   the same as vram, but made by calls of the KFD, so that it can be passed
 *   open:G    open the G-th render node: render file 0, 1, ...
 *   close     close the last of these files
 *   bo:F      GEM buffer in VRAM through render file F, at one address for GPU and host
 *   sysbo:F   the same in system memory
 *   apart:F   the same in VRAM, but the GPU's address is not the host's
 *   pass:B    export buffer B of this process to the other one
 *   keep:B    export it, and keep the descriptor
 *   import:F  import what the other process passes, in render file F
 *   skip:F    take a GEM handle in render file F and do nothing with it
 * STATUSFILE gets a line `process P round N wrong W` for each round, and a line for each buffer
 * whose state changed. Exit status 0: nothing was ever wrong; 1: something was; 2: wrong
 * arguments, or a word failed.
 *
 * Build: cc -O2 -Wall -Wextra -o buffers buffers.c -lhsakmt -ldrm      (headers of libdrm)
 */
#define _GNU_SOURCE
#include "buffers_making.h"

/* Rounds after which a shared buffer without a new pulse counts as no longer shared. */
#define QUIET_ROUNDS 200
#define ROUND_NS 2000000

static int status_file;
static bool ever_wrong;
static volatile sig_atomic_t stop_asked;

static void note(struct buffer *buffer, const char *state)
{
	char line[400];
	int length;

	ever_wrong |= strcmp(state, "ok") != 0;
	if (!strcmp(buffer->state, state))
		return;
	snprintf(buffer->state, sizeof buffer->state, "%s", state);
	length = snprintf(line, sizeof line, "process %u buffer %u %s file %d handle %u: %s\n",
			  process_number, (unsigned)(buffer - buffers), buffer->kind, buffer->file,
			  buffer->handle, state);
	if (write(status_file, line, (size_t)length) != length)
		fail("the status cannot be written");
}

/* Words that differ from the pattern, and a word about the first of them. */
static uint64_t compare(const struct buffer *buffer, const volatile uint64_t *words,
			const char *view, char *text, size_t room)
{
	uint64_t wrong = 0, zero = 0, first = 0;

	for (uint64_t i = 1; i < WORDS; i++)
		if (words[i] != pattern_word(buffer->seed, i)) {
			zero += !words[i];
			first = wrong++ ? first : i;
		}
	if (wrong)
		snprintf(text, room, "%s: %llu of %llu words wrong, %llu zero, word %llu is %016llx",
			 view, (unsigned long long)wrong, WORDS - 1, (unsigned long long)zero,
			 (unsigned long long)first, (unsigned long long)words[first]);
	return wrong;
}

/* A checkpoint may leave a fresh mapping wrong that stands at that moment: look twice. */
static bool wrong_by_handle(struct buffer *buffer, char *text, size_t room)
{
	for (int attempt = 0;; attempt++) {
		void *again = map_handle(files[buffer->file], buffer->handle);
		bool wrong;

		if (again == MAP_FAILED) {
			snprintf(text, room, "handle: %s", strerror(errno));
			return true;
		}
		wrong = compare(buffer, again, "handle", text, room);
		munmap(again, SIZE_BYTES);
		if (!wrong || attempt)
			return wrong;
	}
}

/* Whether the dma-buf that was kept is still this buffer's, which has one handle in a file. */
static bool wrong_dma_buf(const struct buffer *buffer, char *text, size_t room)
{
	uint32_t handle = 0;

	if (buffer->kept < 0 || buffer->file < 0)
		return false;
	if (drmPrimeFDToHandle(files[buffer->file], buffer->kept, &handle))
		snprintf(text, room, "dma-buf: %s", strerror(errno));
	else if (handle != buffer->handle)
		snprintf(text, room, "dma-buf is of handle %u", handle);
	else
		return false;
	return true;
}

/* The owner writes the pulse each round: others see it, and nobody else writes it. */
static bool wrong_pulse(struct buffer *buffer, char *text, size_t room)
{
	bool same = buffer->words[0] == buffer->pulse;

	if (!buffer->imported) {
		if (!same)
			snprintf(text, room, "somebody else's pulse");
		return !same;
	}
	buffer->quiet = same ? buffer->quiet + 1 : 0;
	if (buffer->quiet > QUIET_ROUNDS)
		snprintf(text, room, "no longer shared");
	return buffer->quiet > QUIET_ROUNDS;
}

static bool watch(struct buffer *buffer, uint64_t round)
{
	char state[sizeof buffer->state] = "";
	bool wrong = compare(buffer, buffer->words, "mapping", state, sizeof state);

	if (buffer->file >= 0) {
		size_t used = strlen(state);

		if (used)
			used += (size_t)snprintf(state + used, sizeof state - used, "; ");
		if (wrong_by_handle(buffer, state + used, sizeof state - used))
			wrong = true;
		else if (used)
			snprintf(state + used, sizeof state - used, "handle: ok");
	}
	if (!wrong)
		wrong = wrong_dma_buf(buffer, state, sizeof state);
	if (!wrong)
		wrong = wrong_pulse(buffer, state, sizeof state);
	note(buffer, wrong ? state : "ok");
	if (!buffer->imported)
		buffer->words[0] = round;
	buffer->pulse = buffer->words[0];
	return wrong;
}

static void ask_to_stop(int number)
{
	(void)number;
	stop_asked = 1;
}

/* The other process may end first only if SIGTERM went to both. */
static void collect(int flags)
{
	int status = 0;

	if (child && waitpid(child, &status, flags) == child) {
		child = 0;
		stop_asked = 1;
		ever_wrong |= status != 0;
	}
}

static int rounds(void)
{
	struct timespec pause = { .tv_nsec = ROUND_NS };

	for (uint64_t round = 1; !stop_asked; round++) {
		unsigned wrong = 0;
		char line[80];
		int length;

		for (unsigned i = 0; i < buffer_count; i++)
			wrong += watch(&buffers[i], round);
		length = snprintf(line, sizeof line, "process %u round %llu wrong %u\n",
				  process_number, (unsigned long long)round, wrong);
		if (write(status_file, line, (size_t)length) != length)
			fail("the status cannot be written");
		collect(WNOHANG);
		nanosleep(&pause, NULL);
	}
	if (child)
		kill(child, SIGTERM);
	collect(0);
	return ever_wrong;
}

static const struct word {
	const char *name;
	void (*run)(unsigned);
} words[] = {
	{ "kfd", open_kfd },	   { "vram", allocate_vram },	{ "gtt", allocate_gtt },
	{ "kfdbo", make_kfd_bo },  { "open", open_render },	{ "close", close_render },
	{ "bo", make_bo },	   { "sysbo", make_system_bo }, { "apart", make_apart },
	{ "pass", pass },	   { "keep", keep },		{ "import", import },
	{ "skip", skip_handle },
};

static void carry_out(const char *text)
{
	size_t length = strcspn(text, ":");
	unsigned number = text[length] ? (unsigned)strtoul(text + length + 1, NULL, 10) : 0;

	for (size_t i = 0; i < sizeof words / sizeof *words; i++)
		if (strlen(words[i].name) == length && !memcmp(words[i].name, text, length))
			return words[i].run(number);
	fail("no such word: %s", text);
}

int main(int count, char **arguments)
{
	struct sigaction action = { .sa_handler = ask_to_stop };
	int first = 2, end = 2, pair[2];

	if (count < 3) {
		fprintf(stderr, "usage: buffers STATUSFILE WORD ... [child WORD ...]\n");
		return 2;
	}
	status_file = open(arguments[1], O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (status_file < 0)
		fail("cannot open %s", arguments[1]);
	sigaction(SIGTERM, &action, NULL);
	while (end < count && strcmp(arguments[end], "child"))
		end++;
	if (end < count) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair))
			fail("no sockets");
		child = fork();
		if (child < 0)
			fail("cannot fork");
		other = pair[child ? 0 : 1];
		close(pair[child ? 1 : 0]);
		if (!child) {
			process_number = 1;
			first = end + 1;
			end = count;
		}
	}
	for (int i = first; i < end; i++)
		carry_out(arguments[i]);
	if (other >= 0)
		close(other);
	return rounds();
}
