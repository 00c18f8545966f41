/*
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * What thunk_exercise.c does its steps with: how results are reported, memory of each kind, a
 * pattern to fill it with, and the packets of the SDMA 4.x engine. It exists to keep the numbers
 * of the hardware apart from the order of the steps. It refuses to go on after any failure.
 */
#ifndef THUNK_ENGINES_H
#define THUNK_ENGINES_H

#include <fcntl.h>
#include <hsakmt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define GPUS_MAX 16
#define PAGE_BYTES 4096ull
#define SDMA_RING_BYTES 65536ull
#define SDMA_COPY_BYTES_MAX 0x200000ull /* below the 22 bits of the COUNT field */
#define AQL_PACKETS 64ull
#define WAIT_MS 30000u

/* Header fields of SDMA 4.x packets: operation in bits 0 to 7, fill unit in bits 30 and 31. */
enum { SDMA_COPY = 1, SDMA_FENCE = 5, SDMA_TRAP = 6, SDMA_FILL = 11, SDMA_FILL_DWORDS = 2 };
/* Header of a barrier-AND packet: type, barrier bit, acquire and release fences of the system. */
enum { AQL_INVALID = 1, AQL_BARRIER_AND = 3 | 1 << 8 | 2 << 9 | 2 << 11 };

struct signal_block { /* amd_signal_t */
	int64_t kind;
	_Atomic int64_t value;
	uint64_t mailbox;
	uint32_t event_id, reserved1;
	uint64_t start_ts, end_ts, reserved2, reserved3;
};

struct barrier_packet {
	_Atomic uint16_t header;
	uint16_t reserved0;
	uint32_t reserved1;
	uint64_t dependency[5], reserved2, completion;
};

_Static_assert(sizeof(struct signal_block) == 64, "a signal has 64 bytes");
_Static_assert(sizeof(struct barrier_packet) == 64, "an AQL packet has 64 bytes");

struct sdma {
	HsaQueueResource resource;
	uint8_t *ring;
	uint64_t written_bytes; /* never wraps, as the engine's own counters */
	_Atomic uint32_t *fence;
	uint32_t submitted;
	HsaEvent *event;
};

struct aql {
	HsaQueueResource resource;
	struct barrier_packet *ring;
	_Atomic uint64_t *pointers; /* one page: [0] written, [1] read, in packets */
	struct signal_block *signals; /* [0] is waited for, [1] is completed */
	uint64_t written;
	HsaEvent *event;
};

struct gpu {
	HSAuint32 node;
	struct sdma sdma;
	struct aql aql;
	uint8_t *vram, *gtt, *hidden, *kept_vram, *kept_gtt, *scratch;
};

static struct gpu gpus[GPUS_MAX];
static unsigned gpu_count, process_number;
static HSAuint32 cpu_node = UINT32_MAX; /* the first one, once the topology is read */
static uint64_t buffer_bytes = 1 << 20;
static bool quiet; /* in rounds, only failures are printed */
static volatile sig_atomic_t stop_asked;
static pid_t child; /* the other process, while it has not been waited for */

static void say(bool failed, const char *form, va_list arguments)
{
	char text[400];
	int length = snprintf(text, sizeof text, "%s p%u ", failed ? "FAIL" : "ok", process_number);

	vsnprintf(text + length, sizeof text - (size_t)length, form, arguments);
	fprintf(failed ? stderr : stdout, "%s\n", text);
	fflush(NULL);
}

static void ok(const char *form, ...)
{
	va_list arguments;

	if (quiet)
		return;
	va_start(arguments, form);
	say(false, form, arguments);
	va_end(arguments);
}

__attribute__((noreturn)) static void fail(const char *form, ...)
{
	va_list arguments;

	va_start(arguments, form);
	say(true, form, arguments);
	va_end(arguments);
	if (child)
		kill(child, SIGKILL);
	exit(1);
}

static void must(HSAKMT_STATUS status, const char *what, HSAuint32 node)
{
	if (status != HSAKMT_STATUS_SUCCESS)
		fail("node %u %s: HSAKMT_STATUS %d", node, what, (int)status);
}

/* Memory. */

enum kind { VRAM, VRAM_HIDDEN, GTT, PAGED };

static void *allocate(HSAuint32 gpu_node, enum kind kind, uint64_t size_bytes)
{
	bool local = kind == VRAM || kind == VRAM_HIDDEN;
	HsaMemFlags flags = { .Value = 0 };
	void *memory = NULL;
	HSAuint64 other_va;

	flags.ui32.NonPaged = kind != PAGED;
	flags.ui32.HostAccess = kind != VRAM_HIDDEN;
	flags.ui32.CoarseGrain = local;
	flags.ui32.ExecuteAccess = kind == PAGED;
	must(hsaKmtAllocMemory(local ? gpu_node : cpu_node, size_bytes, flags, &memory), "allocate",
	     gpu_node);
	must(hsaKmtMapMemoryToGPU(memory, size_bytes, &other_va), "map to GPUs", gpu_node);
	return memory;
}

static void release(HSAuint32 node, void *memory, uint64_t size_bytes)
{
	must(hsaKmtUnmapMemoryToGPU(memory), "unmap", node);
	must(hsaKmtFreeMemory(memory, size_bytes), "free", node);
}

/* Word `index` of the pattern `seed`: any two words, and any two seeds, differ. */
static uint64_t pattern_word(uint64_t seed, uint64_t index)
{
	uint64_t word = (index + 1) * 0x9e3779b97f4a7c15ull ^ (seed + 1) * 0xd1b54a32d192ed03ull;

	return word ^ word >> 29;
}

static void fill(uint8_t *memory, uint64_t seed)
{
	for (uint64_t i = 0; i < buffer_bytes / 8; i++) {
		uint64_t word = pattern_word(seed, i);

		memcpy(memory + i * 8, &word, 8);
	}
}

static void check(const uint8_t *memory, uint64_t seed, const char *what, HSAuint32 node)
{
	for (uint64_t i = 0; i < buffer_bytes / 8; i++) {
		uint64_t want = pattern_word(seed, i), have;

		memcpy(&have, memory + i * 8, 8);
		if (have != want)
			fail("node %u %s: byte 0x%llx holds %016llx, not %016llx", node, what,
			     (unsigned long long)i * 8, (unsigned long long)have,
			     (unsigned long long)want);
	}
}

static HsaEvent *create_event(HSAuint32 node)
{
	HsaEventDescriptor descriptor = { .EventType = HSA_EVENTTYPE_SIGNAL, .NodeId = node };
	HsaEvent *event = NULL;

	must(hsaKmtCreateEvent(&descriptor, false, false, &event), "create event", node);
	if (!event->EventData.HWData2)
		fail("node %u event %u has no mailbox", node, event->EventId);
	return event;
}

/* Packets, then the write pointer, then the doorbell become visible to the engine. */
static void ring_doorbell(HsaQueueResource *queue, uint64_t written, uint64_t doorbell)
{
	atomic_store_explicit((_Atomic uint64_t *)queue->Queue_write_ptr_aql, written,
			      memory_order_release);
	atomic_store_explicit((_Atomic uint64_t *)queue->Queue_DoorBell_aql, doorbell,
			      memory_order_release);
}

/* SDMA. */

/* Room for one packet in one piece; the end of the ring is passed by zero words, which are NOPs. */
static uint32_t *sdma_room(struct sdma *queue, uint64_t size_bytes)
{
	_Atomic uint64_t *read = (_Atomic uint64_t *)queue->resource.Queue_read_ptr_aql;
	uint64_t place = queue->written_bytes % SDMA_RING_BYTES;
	uint64_t left = SDMA_RING_BYTES - place;

	if (left < size_bytes) {
		memset(queue->ring + place, 0, left);
		queue->written_bytes += left;
		place = 0;
	}
	queue->written_bytes += size_bytes;
	if (queue->written_bytes - atomic_load(read) > SDMA_RING_BYTES)
		fail("ring full: %llu bytes written, %llu read",
		     (unsigned long long)queue->written_bytes,
		     (unsigned long long)atomic_load(read));
	return (uint32_t *)(queue->ring + place);
}

static void put_address(uint32_t *words, uint64_t address)
{
	words[0] = (uint32_t)address;
	words[1] = (uint32_t)(address >> 32);
}

static void sdma_copy(struct gpu *gpu, void *to, const void *from, uint64_t size_bytes)
{
	for (uint64_t done = 0; done < size_bytes;) {
		uint64_t part = size_bytes - done;
		uint32_t *packet = sdma_room(&gpu->sdma, 7 * 4);

		if (part > SDMA_COPY_BYTES_MAX)
			part = SDMA_COPY_BYTES_MAX;
		packet[0] = SDMA_COPY;
		packet[1] = (uint32_t)part - 1;
		packet[2] = 0;
		put_address(packet + 3, (uintptr_t)from + done);
		put_address(packet + 5, (uintptr_t)to + done);
		done += part;
	}
}

static void sdma_fill(struct gpu *gpu, void *to, uint32_t word, uint64_t size_bytes)
{
	for (uint64_t done = 0; done < size_bytes;) {
		uint64_t part = size_bytes - done;
		uint32_t *packet = sdma_room(&gpu->sdma, 5 * 4);

		if (part > SDMA_COPY_BYTES_MAX)
			part = SDMA_COPY_BYTES_MAX;
		packet[0] = SDMA_FILL | (uint32_t)SDMA_FILL_DWORDS << 30;
		put_address(packet + 1, (uintptr_t)to + done);
		packet[3] = word;
		packet[4] = (uint32_t)part - 1;
		done += part;
	}
}

static void sdma_fence(struct sdma *queue, uint64_t address, uint32_t value)
{
	uint32_t *packet = sdma_room(queue, 4 * 4);

	packet[0] = SDMA_FENCE;
	put_address(packet + 1, address);
	packet[3] = value;
}

/* Ends the packets so far with a fence and an interrupt, and rings the doorbell. */
static void sdma_submit(struct gpu *gpu)
{
	struct sdma *queue = &gpu->sdma;
	uint32_t *trap;

	sdma_fence(queue, (uintptr_t)queue->fence, ++queue->submitted);
	sdma_fence(queue, queue->event->EventData.HWData2, queue->event->EventId);
	trap = sdma_room(queue, 2 * 4);
	trap[0] = SDMA_TRAP;
	trap[1] = queue->event->EventId;
	ring_doorbell(&queue->resource, queue->written_bytes, queue->written_bytes);
}

/* Waits for the interrupt; the fence tells whether it is the one of this submission. */
static void sdma_wait(struct gpu *gpu, const char *what)
{
	struct sdma *queue = &gpu->sdma;

	do {
		HSAKMT_STATUS status = hsaKmtWaitOnEvent(queue->event, WAIT_MS);

		if (status != HSAKMT_STATUS_SUCCESS)
			fail("node %u %s: waiting gave %d; fence %u of %u", gpu->node, what,
			     (int)status, atomic_load(queue->fence), queue->submitted);
	} while (atomic_load(queue->fence) != queue->submitted);
}

static void sdma_run(struct gpu *gpu, const char *what)
{
	sdma_submit(gpu);
	sdma_wait(gpu, what);
}

/* Waits for the engine to say in memory, without an event, that it has read all packets. */
static void sdma_wait_idle(struct gpu *gpu)
{
	_Atomic uint64_t *read = (_Atomic uint64_t *)gpu->sdma.resource.Queue_read_ptr_aql;
	struct timespec begin, now;

	clock_gettime(CLOCK_MONOTONIC, &begin);
	while (atomic_load(read) != gpu->sdma.written_bytes) {
		clock_gettime(CLOCK_MONOTONIC, &now);
		if ((uint64_t)(now.tv_sec - begin.tv_sec) * 1000 > WAIT_MS)
			fail("node %u read pointer stays at %llu, not %llu", gpu->node,
			     (unsigned long long)atomic_load(read),
			     (unsigned long long)gpu->sdma.written_bytes);
	}
}

#endif
