/*
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * An ordinary libhsakmt program that does on every GPU what a runtime does first: memory, queues,
 * copies and events, checked byte for byte. It exists because a device node is proven by a program
 * that was not written for it: libhsakmt is used as distributions ship it, and nothing here knows
 * whether the node is emulated. It starts no shader, since that needs a GPU.
 *
 *   thunk_exercise once                               each step once; a line for each
 *   thunk_exercise loop STATUSFILE [PROCESSES] [KIB]  until SIGTERM; for checkpoints
 *
 * `loop` forks before it opens the device (PROCESSES is 1 or 2), keeps all GPUs of each process
 * busy with buffers of KIB kibibytes, checks buffers that were filled before the first round
 * anew in every round, and appends a line a round to STATUSFILE. Exit status 0: all held;
 * 1: a step failed or memory was wrong (the last line says which); 2: wrong arguments.
 *
 * Build: cc -O2 -Wall -Wextra -o thunk_exercise thunk_exercise.c -lhsakmt   (libhsakmt 5.2, gfx9)
 */
#define _GNU_SOURCE
#include "thunk_engines.h"

/* Setting up and taking down. */

static void create_sdma(struct gpu *gpu)
{
	struct sdma *queue = &gpu->sdma;

	queue->ring = allocate(gpu->node, GTT, SDMA_RING_BYTES);
	memset(queue->ring, 0, SDMA_RING_BYTES);
	queue->fence = allocate(gpu->node, GTT, PAGE_BYTES);
	atomic_store(queue->fence, 0);
	queue->event = create_event(gpu->node);
	must(hsaKmtCreateQueue(gpu->node, HSA_QUEUE_SDMA, 100, HSA_QUEUE_PRIORITY_NORMAL,
			       queue->ring, SDMA_RING_BYTES, NULL, &queue->resource),
	     "create SDMA queue", gpu->node);
}

static void create_aql(struct gpu *gpu)
{
	struct aql *queue = &gpu->aql;

	queue->ring = allocate(gpu->node, PAGED, AQL_PACKETS * sizeof *queue->ring);
	for (unsigned i = 0; i < AQL_PACKETS; i++)
		atomic_store(&queue->ring[i].header, AQL_INVALID);
	queue->pointers = allocate(gpu->node, PAGED, PAGE_BYTES);
	queue->signals = allocate(gpu->node, GTT, PAGE_BYTES);
	queue->event = create_event(gpu->node);
	queue->resource.Queue_write_ptr_aql = (HSAuint64 *)&queue->pointers[0];
	queue->resource.Queue_read_ptr_aql = (HSAuint64 *)&queue->pointers[1];
	must(hsaKmtCreateQueue(gpu->node, HSA_QUEUE_COMPUTE_AQL, 100, HSA_QUEUE_PRIORITY_NORMAL,
			       queue->ring, AQL_PACKETS * sizeof *queue->ring, NULL,
			       &queue->resource),
	     "create AQL queue", gpu->node);
}

static uint64_t kept_seed(const struct gpu *gpu)
{
	return 1000 * process_number + gpu->node;
}

static void set_up(struct gpu *gpu)
{
	gpu->vram = allocate(gpu->node, VRAM, buffer_bytes);
	gpu->gtt = allocate(gpu->node, GTT, buffer_bytes);
	gpu->hidden = allocate(gpu->node, VRAM_HIDDEN, buffer_bytes);
	gpu->kept_vram = allocate(gpu->node, VRAM, buffer_bytes);
	gpu->kept_gtt = allocate(gpu->node, GTT, buffer_bytes);
	gpu->scratch = allocate(gpu->node, GTT, buffer_bytes);
	ok("node %u allocate and map VRAM, GTT, VRAM without host access", gpu->node);
	create_sdma(gpu);
	create_aql(gpu);
	ok("node %u create SDMA and AQL queues and events %u %u", gpu->node,
	   gpu->sdma.event->EventId, gpu->aql.event->EventId);
	fill(gpu->kept_vram, kept_seed(gpu));
	fill(gpu->kept_gtt, ~kept_seed(gpu));
	sdma_copy(gpu, gpu->hidden, gpu->kept_vram, buffer_bytes);
	sdma_run(gpu, "fill VRAM without host access");
}

static void take_down(struct gpu *gpu)
{
	must(hsaKmtDestroyQueue(gpu->sdma.resource.QueueId), "destroy SDMA queue", gpu->node);
	must(hsaKmtDestroyQueue(gpu->aql.resource.QueueId), "destroy AQL queue", gpu->node);
	must(hsaKmtDestroyEvent(gpu->sdma.event), "destroy event", gpu->node);
	must(hsaKmtDestroyEvent(gpu->aql.event), "destroy event", gpu->node);
	release(gpu->node, gpu->sdma.ring, SDMA_RING_BYTES);
	release(gpu->node, (void *)gpu->sdma.fence, PAGE_BYTES);
	release(gpu->node, gpu->aql.ring, AQL_PACKETS * sizeof *gpu->aql.ring);
	release(gpu->node, (void *)gpu->aql.pointers, PAGE_BYTES);
	release(gpu->node, gpu->aql.signals, PAGE_BYTES);
	for (uint8_t **buffer = &gpu->vram; buffer <= &gpu->scratch; buffer++)
		release(gpu->node, *buffer, buffer_bytes);
	ok("node %u destroy queues and events, free memory", gpu->node);
}

static void open_node(void)
{
	HsaSystemProperties system = { 0 };

	must(hsaKmtOpenKFD(), "open /dev/kfd", 0);
	must(hsaKmtAcquireSystemProperties(&system), "read the topology", 0);
	for (HSAuint32 node = 0; node < system.NumNodes; node++) {
		HsaNodeProperties is = { 0 };

		must(hsaKmtGetNodeProperties(node, &is), "node properties", node);
		if (!is.NumFComputeCores)
			cpu_node = node < cpu_node ? node : cpu_node;
		else if (is.NumCPUCores)
			ok("node %u skipped: an APU, for which this library has no GTT", node);
		else if (gpu_count < GPUS_MAX)
			gpus[gpu_count++].node = node;
		ok("node %u: %u CPU cores, %u SIMDs, gfx %u.%u.%x, device %04x, minor %d", node,
		   is.NumCPUCores, is.NumFComputeCores, is.EngineId.ui32.Major,
		   is.EngineId.ui32.Minor, is.EngineId.ui32.Stepping, is.DeviceId,
		   is.DrmRenderMinor);
	}
	if (!gpu_count)
		fail("no GPU of its own memory in %u nodes", system.NumNodes);
	for (unsigned i = 0; i < gpu_count; i++)
		set_up(&gpus[i]);
}

static void close_node(void)
{
	for (unsigned i = 0; i < gpu_count; i++)
		take_down(&gpus[i]);
	must(hsaKmtReleaseSystemProperties(), "release the topology", 0);
	must(hsaKmtCloseKFD(), "close /dev/kfd", 0);
}

/* Steps. */

static void copies_between_memories(struct gpu *gpu, uint64_t seed)
{
	fill(gpu->gtt, seed);
	sdma_copy(gpu, gpu->vram, gpu->gtt, buffer_bytes);
	sdma_run(gpu, "GTT to VRAM");
	check(gpu->vram, seed, "GTT to VRAM", gpu->node);
	memset(gpu->gtt, 0, buffer_bytes);
	sdma_copy(gpu, gpu->gtt, gpu->vram, buffer_bytes);
	sdma_run(gpu, "VRAM to GTT");
	check(gpu->gtt, seed, "VRAM to GTT", gpu->node);
	ok("node %u SDMA copies GTT to VRAM and back, %llu bytes", gpu->node,
	   (unsigned long long)buffer_bytes);
}

/* Odd sizes at odd places: exactly these bytes change, and none beside them. */
static void copies_of_odd_sizes(struct gpu *gpu)
{
	static const uint32_t sizes[] = { 1, 3, 4093, 4097, 12289 };

	for (unsigned i = 0; i < sizeof sizes / sizeof *sizes; i++) {
		uint32_t size = sizes[i], at = 4095 - i, from = 8191 + i;

		fill(gpu->gtt, size);
		memset(gpu->vram, 0xa5, buffer_bytes);
		sdma_copy(gpu, gpu->vram + at, gpu->gtt + from, size);
		sdma_run(gpu, "odd copy");
		for (uint64_t k = 0; k < buffer_bytes; k++) {
			bool inside = k >= at && k < at + size;
			uint8_t want = inside ? gpu->gtt[from + (k - at)] : 0xa5;

			if (gpu->vram[k] != want)
				fail("node %u odd copy of %u bytes: byte 0x%llx is %02x, not %02x",
				     gpu->node, size, (unsigned long long)k, gpu->vram[k], want);
		}
	}
	ok("node %u SDMA copies of odd sizes change no other byte", gpu->node);
}

static void constant_fill(struct gpu *gpu)
{
	const uint32_t word = 0xc0ffee00u + gpu->node;

	memset(gpu->vram, 0, buffer_bytes);
	sdma_fill(gpu, gpu->vram, word, buffer_bytes - 4);
	sdma_submit(gpu);
	sdma_wait_idle(gpu);
	sdma_wait(gpu, "constant fill");
	for (uint64_t i = 0; i < buffer_bytes / 4; i++) {
		uint32_t have, want = i == buffer_bytes / 4 - 1 ? 0 : word;

		memcpy(&have, gpu->vram + i * 4, 4);
		if (have != want)
			fail("node %u fill: word %llu holds %08x, not %08x", gpu->node,
			     (unsigned long long)i, have, want);
	}
	ok("node %u SDMA fill; read pointer reaches the write pointer", gpu->node);
}

static void copy_of_user_memory(struct gpu *gpu)
{
	uint8_t *memory = aligned_alloc(PAGE_BYTES, buffer_bytes);
	HSAuint64 va = 0;

	fill(memory, 77);
	must(hsaKmtRegisterMemory(memory, buffer_bytes), "register user memory", gpu->node);
	must(hsaKmtMapMemoryToGPU(memory, buffer_bytes, &va), "map user memory", gpu->node);
	sdma_copy(gpu, gpu->vram, (void *)(va ? va : (uintptr_t)memory), buffer_bytes);
	sdma_run(gpu, "user memory to VRAM");
	check(gpu->vram, 77, "user memory to VRAM", gpu->node);
	must(hsaKmtUnmapMemoryToGPU(memory), "unmap user memory", gpu->node);
	must(hsaKmtDeregisterMemory(memory), "deregister user memory", gpu->node);
	free(memory);
	ok("node %u SDMA copies memory of the process", gpu->node);
}

static void copies_across(struct gpu *from, struct gpu *to)
{
	uint64_t seed = from->node * 100 + to->node;

	fill(from->vram, seed);
	memset(to->vram, 0, buffer_bytes);
	sdma_copy(from, to->vram, from->vram, buffer_bytes);
	sdma_run(from, "to the VRAM of another GPU");
	check(to->vram, seed, "VRAM written by another GPU", to->node);
	memset(from->vram, 0, buffer_bytes);
	sdma_copy(from, from->vram, to->vram, buffer_bytes);
	sdma_run(from, "from the VRAM of another GPU");
	check(from->vram, seed, "VRAM read from another GPU", from->node);
	ok("node %u SDMA copies to and from VRAM of node %u", from->node, to->node);
}

/* A barrier must not complete before what it waits for, and must then decrement its signal. */
static void barrier(struct gpu *gpu)
{
	struct aql *queue = &gpu->aql;
	struct barrier_packet *packet = &queue->ring[queue->written % AQL_PACKETS];
	struct signal_block *waited = &queue->signals[0], *completed = &queue->signals[1];

	memset(queue->signals, 0, 2 * sizeof *queue->signals);
	waited->kind = completed->kind = 1;
	waited->value = completed->value = 1;
	completed->mailbox = queue->event->EventData.HWData2;
	completed->event_id = queue->event->EventId;
	memset((char *)packet + 2, 0, sizeof *packet - 2);
	packet->dependency[0] = (uintptr_t)waited;
	packet->completion = (uintptr_t)completed;
	atomic_store(&packet->header, AQL_BARRIER_AND);
	ring_doorbell(&queue->resource, queue->written + 1, queue->written);
	queue->written++;

	sdma_run(gpu, "SDMA beside a waiting barrier");
	if (atomic_load(&completed->value) != 1)
		fail("node %u barrier completed before its dependency", gpu->node);
	atomic_store(&waited->value, 0);
	do
		must(hsaKmtWaitOnEvent(queue->event, WAIT_MS), "wait for a barrier", gpu->node);
	while (atomic_load(&completed->value) == 1);
	if (atomic_load(&completed->value) != 0)
		fail("node %u barrier left %lld in its signal", gpu->node,
		     (long long)atomic_load(&completed->value));
	ok("node %u AQL barrier waits for its dependency and signals", gpu->node);
}

static void check_kept(struct gpu *gpu)
{
	check(gpu->kept_vram, kept_seed(gpu), "kept VRAM", gpu->node);
	check(gpu->kept_gtt, ~kept_seed(gpu), "kept GTT", gpu->node);
	sdma_copy(gpu, gpu->scratch, gpu->hidden, buffer_bytes);
	sdma_run(gpu, "read VRAM without host access");
	check(gpu->scratch, kept_seed(gpu), "kept VRAM without host access", gpu->node);
	ok("node %u memory filled at the start is unchanged", gpu->node);
}

static int once(void)
{
	open_node();
	for (unsigned i = 0; i < gpu_count; i++) {
		copies_between_memories(&gpus[i], i);
		copies_of_odd_sizes(&gpus[i]);
		constant_fill(&gpus[i]);
		copy_of_user_memory(&gpus[i]);
		for (unsigned k = 0; k < gpu_count; k++)
			if (k != i)
				copies_across(&gpus[i], &gpus[k]);
		barrier(&gpus[i]);
	}
	for (unsigned i = 0; i < gpu_count; i++)
		check_kept(&gpus[i]);
	close_node();
	ok("all");
	return 0;
}

/* Rounds for checkpoints. */

static void ask_to_stop(int number)
{
	(void)number;
	stop_asked = 1;
}

/* All GPUs work at the same time: everything is submitted before anything is waited for. */
static void round_of_copies(uint64_t round)
{
	for (unsigned i = 0; i < gpu_count; i++) {
		fill(gpus[i].gtt, round * 64 + i);
		sdma_copy(&gpus[i], gpus[i].vram, gpus[i].gtt, buffer_bytes);
		sdma_copy(&gpus[i], gpus[i].scratch, gpus[i].vram, buffer_bytes);
		sdma_submit(&gpus[i]);
	}
	for (unsigned i = 0; i < gpu_count; i++) {
		sdma_wait(&gpus[i], "round");
		check(gpus[i].scratch, round * 64 + i, "round by way of VRAM", gpus[i].node);
		check(gpus[i].vram, round * 64 + i, "round in VRAM", gpus[i].node);
		barrier(&gpus[i]);
		check_kept(&gpus[i]);
	}
}

/* The other process may end first only if SIGTERM went to both, and then without an error. */
static void watch_child(int wait_flags)
{
	int status = 0;

	if (!child || waitpid(child, &status, wait_flags) != child)
		return;
	child = 0;
	stop_asked = 1;
	if (status)
		fail("the other process ended with status 0x%x", status);
}

static int rounds(const char *status_path)
{
	int status_file = open(status_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);

	if (status_file < 0)
		fail("cannot open %s", status_path);
	open_node();
	quiet = true;
	for (uint64_t round = 1; !stop_asked; round++) {
		char line[80];
		int length;

		round_of_copies(round);
		length = snprintf(line, sizeof line, "process %u round %llu gpus %u\n",
				  process_number, (unsigned long long)round, gpu_count);
		if (write(status_file, line, (size_t)length) != length)
			fail("cannot write %s", status_path);
		watch_child(WNOHANG);
	}
	quiet = false;
	close_node();
	if (child)
		kill(child, SIGTERM);
	watch_child(0);
	ok("stopped after SIGTERM");
	return 0;
}

static int loop(const char *status_path, unsigned processes)
{
	struct sigaction action = { .sa_handler = ask_to_stop };

	sigaction(SIGTERM, &action, NULL);
	if (processes == 2) {
		child = fork();
		if (child < 0)
			fail("cannot fork");
		if (!child)
			process_number = 1;
	}
	return rounds(status_path);
}

int main(int count, char **words)
{
	if (count == 2 && !strcmp(words[1], "once"))
		return once();
	if (count >= 3 && count <= 5 && !strcmp(words[1], "loop")) {
		unsigned long processes = count > 3 ? strtoul(words[3], NULL, 10) : 1;
		unsigned long kib = count > 4 ? strtoul(words[4], NULL, 10) : buffer_bytes / 1024;

		buffer_bytes = kib * 1024;
		if (processes >= 1 && processes <= 2 && kib >= 32 && kib <= 1 << 20 && kib % 4 == 0)
			return loop(words[2], (unsigned)processes);
	}
	fprintf(stderr, "usage: thunk_exercise once | loop STATUSFILE [1|2 processes] [KiB]\n");
	return 2;
}
