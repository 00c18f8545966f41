/*
 * SPDX-License-Identifier: MIT OR Apache-2.0
 *
 * How buffers.c makes what it watches: buffers of each kind, files that they belong to, and how
 * they come to another process. It exists to keep the calls of drivers apart from what is looked
 * for. It refuses to go on after any failure.
 */
#ifndef BUFFERS_MAKING_H
#define BUFFERS_MAKING_H

#include <amdgpu_drm.h>
#include <errno.h>
#include <fcntl.h>
#include <hsakmt.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <xf86drm.h>

#define BUFFERS_MAX 2048
#define FILES_MAX 64
#define NODES_MAX 64
#define SIZE_BYTES (64ull << 10)
/* The first word of a buffer is its owner's pulse, the rest stays as it was filled. */
#define WORDS (SIZE_BYTES / sizeof(uint64_t))
/* Where buffers of `apart` lie for the GPU: below what mmap chooses, above what thunk uses. */
#define APART_VA 0x300000000000ull

/* Calls of the KFD, whose header not every system has in one place (linux/kfd_ioctl.h). */
struct kfd_alloc {
	uint64_t va, size_bytes, handle, mmap_offset;
	uint32_t gpu_id, flags;
};
struct kfd_map {
	uint64_t handle, gpu_ids;
	uint32_t gpus, done;
};
struct kfd_export { /* since KFD 1.12 */
	uint64_t handle;
	uint32_t flags, file;
};
#define KFD_ALLOC _IOWR('K', 0x16, struct kfd_alloc)
#define KFD_MAP _IOWR('K', 0x18, struct kfd_map)
#define KFD_EXPORT _IOWR('K', 0x24, struct kfd_export)
enum { KFD_VRAM = 1 << 0, KFD_NO_SUBSTITUTE = 1 << 28, KFD_PUBLIC = 1 << 29 };
#define KFD_WRITABLE (1u << 31)

struct buffer {
	const char *kind;
	volatile uint64_t *words;
	uint64_t seed;
	int file; /* render file, -1 for the KFD's */
	uint32_t handle;
	uint64_t kfd_handle; /* of a buffer that calls of the KFD made */
	int kept; /* dma-buf of this buffer, or -1 */
	bool imported;
	uint64_t pulse;
	unsigned quiet;
	char state[240];
};

static struct buffer buffers[BUFFERS_MAX];
static unsigned buffer_count, gpu_count, file_count, process_number;
static int files[FILES_MAX];
static HSAuint32 gpu_nodes[NODES_MAX], gpu_ids[NODES_MAX], minors[NODES_MAX], cpu_node;
static int other = -1; /* a socket to the other process */
static pid_t child;

__attribute__((noreturn, format(printf, 1, 2))) static void fail(const char *form, ...)
{
	va_list arguments;

	fprintf(stderr, "process %u: ", process_number);
	va_start(arguments, form);
	vfprintf(stderr, form, arguments);
	va_end(arguments);
	fprintf(stderr, " (%s)\n", strerror(errno));
	if (child)
		kill(child, SIGKILL);
	exit(2);
}

static void must(HSAKMT_STATUS status, const char *what)
{
	if (status != HSAKMT_STATUS_SUCCESS)
		fail("%s: HSAKMT_STATUS %d", what, (int)status);
}

static uint64_t pattern_word(uint64_t seed, uint64_t index)
{
	uint64_t word = (index + 1) * 0x9e3779b97f4a7c15ull ^ (seed + 1) * 0xd1b54a32d192ed03ull;

	return word ^ word >> 29;
}

static struct buffer *add(const char *kind, void *memory, int file, uint32_t handle)
{
	struct buffer *buffer = &buffers[buffer_count];

	if (buffer_count == BUFFERS_MAX)
		fail("more than %d buffers", BUFFERS_MAX);
	*buffer = (struct buffer){ .kind = kind, .words = memory, .file = file, .handle = handle };
	buffer->kept = -1;
	buffer->seed = 10000 * process_number + buffer_count++;
	return buffer;
}

static void fill(struct buffer *buffer)
{
	for (uint64_t i = 1; i < WORDS; i++)
		buffer->words[i] = pattern_word(buffer->seed, i);
	buffer->words[0] = 0;
}

/* The KFD's buffers. */

/* What the KFD calls a GPU; this libhsakmt does not tell. */
static HSAuint32 gpu_id_of(HSAuint32 node)
{
	char path[64];
	unsigned id = 0;
	FILE *file;

	snprintf(path, sizeof path, "/sys/class/kfd/kfd/topology/nodes/%u/gpu_id", node);
	file = fopen(path, "re");
	if (!file || fscanf(file, "%u", &id) != 1)
		fail("cannot read %s", path);
	fclose(file);
	return id;
}

static void open_kfd(unsigned unused)
{
	HsaSystemProperties system = { 0 };
	bool found_cpu = false;

	(void)unused;
	must(hsaKmtOpenKFD(), "open /dev/kfd");
	must(hsaKmtAcquireSystemProperties(&system), "read the topology");
	for (HSAuint32 node = 0; node < system.NumNodes; node++) {
		HsaNodeProperties is = { 0 };

		must(hsaKmtGetNodeProperties(node, &is), "node properties");
		if (is.NumFComputeCores && gpu_count < NODES_MAX) {
			gpu_ids[gpu_count] = gpu_id_of(node);
			minors[gpu_count] = (HSAuint32)is.DrmRenderMinor;
			gpu_nodes[gpu_count++] = node;
		} else if (!found_cpu) {
			cpu_node = node;
			found_cpu = true;
		}
	}
}

static void allocate(const char *kind, unsigned gpu, bool local)
{
	HsaMemFlags flags = { .Value = 0 };
	void *memory = NULL;
	HSAuint64 va;

	if (gpu >= gpu_count)
		fail("no GPU %u", gpu);
	flags.ui32.NonPaged = flags.ui32.HostAccess = 1;
	flags.ui32.CoarseGrain = local;
	must(hsaKmtAllocMemory(local ? gpu_nodes[gpu] : cpu_node, SIZE_BYTES, flags, &memory), kind);
	must(hsaKmtMapMemoryToGPU(memory, SIZE_BYTES, &va), kind);
	fill(add(kind, memory, -1, 0));
}

static void allocate_vram(unsigned gpu)
{
	allocate("vram", gpu, true);
}

static void allocate_gtt(unsigned gpu)
{
	allocate("gtt", gpu, false);
}

/* The first descriptor of this process that is open on a path. */
static int descriptor_of(const char *path)
{
	for (int file = 3; file < 1024; file++) {
		char link[40], target[64];
		ssize_t length;

		snprintf(link, sizeof link, "/proc/self/fd/%d", file);
		length = readlink(link, target, sizeof target);
		if (length == (ssize_t)strlen(path) && !memcmp(target, path, (size_t)length))
			return file;
	}
	fail("%s is not open", path);
}

/* What libhsakmt does for VRAM, through its files, which own the address space. */
static void make_kfd_bo(unsigned gpu)
{
	struct kfd_alloc made = { .size_bytes = SIZE_BYTES };
	struct kfd_map map = { .gpus = 1 };
	int kfd = descriptor_of("/dev/kfd");
	char path[32];
	void *memory;

	if (gpu >= gpu_count)
		fail("no GPU %u", gpu);
	snprintf(path, sizeof path, "/dev/dri/renderD%u", minors[gpu]);
	memory = mmap(NULL, SIZE_BYTES, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	made.va = (uintptr_t)memory;
	made.gpu_id = gpu_ids[gpu];
	made.flags = KFD_VRAM | KFD_PUBLIC | KFD_WRITABLE | KFD_NO_SUBSTITUTE;
	if (ioctl(kfd, KFD_ALLOC, &made))
		fail("the KFD makes no buffer");
	map.handle = made.handle;
	map.gpu_ids = (uintptr_t)&gpu_ids[gpu];
	if (ioctl(kfd, KFD_MAP, &map))
		fail("the KFD maps no buffer");
	if (mmap(memory, SIZE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED,
		 descriptor_of(path), (off_t)made.mmap_offset) == MAP_FAILED)
		fail("a buffer of the KFD cannot be mapped");
	madvise(memory, SIZE_BYTES, MADV_DONTFORK);
	fill(add("kfdbo", memory, -1, 0));
	buffers[buffer_count - 1].kfd_handle = made.handle;
}

/* Buffers of render nodes. */

static void open_render(unsigned index)
{
	char path[32];

	for (unsigned minor = 128, found = 0; minor < 192; minor++) {
		snprintf(path, sizeof path, "/dev/dri/renderD%u", minor);
		if (access(path, F_OK) || found++ != index)
			continue;
		if (file_count == FILES_MAX)
			fail("more than %d render files", FILES_MAX);
		files[file_count] = open(path, O_RDWR | O_CLOEXEC);
		if (files[file_count++] < 0)
			fail("cannot open %s", path);
		return;
	}
	fail("no render node %u", index);
}

static void close_render(unsigned unused)
{
	(void)unused;
	if (!file_count)
		fail("no render file is open");
	close(files[--file_count]);
}

static bool offset_of(int file, uint32_t handle, uint64_t *offset)
{
	union drm_amdgpu_gem_mmap where = { .in.handle = handle };

	if (drmIoctl(file, DRM_IOCTL_AMDGPU_GEM_MMAP, &where))
		return false;
	*offset = where.out.addr_ptr;
	return true;
}

/* A checkpoint between asking and mapping leaves a program with an old offset: ask again. */
static void *map_handle(int file, uint32_t handle)
{
	uint64_t before, after;

	if (!offset_of(file, handle, &before))
		return MAP_FAILED;
	for (;;) {
		void *memory = mmap(NULL, SIZE_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, file,
				    (off_t)before);

		if (!offset_of(file, handle, &after))
			return MAP_FAILED;
		if (after == before)
			return memory;
		if (memory != MAP_FAILED)
			munmap(memory, SIZE_BYTES);
		before = after;
	}
}

static struct buffer *map_both(const char *kind, int index, uint32_t handle, bool apart)
{
	struct drm_amdgpu_gem_va va = {
		.handle = handle,
		.operation = AMDGPU_VA_OP_MAP,
		.flags = AMDGPU_VM_PAGE_READABLE | AMDGPU_VM_PAGE_WRITEABLE,
		.map_size = SIZE_BYTES,
	};
	void *memory = map_handle(files[index], handle);

	if (memory == MAP_FAILED)
		fail("%s cannot be mapped", kind);
	va.va_address = apart ? APART_VA + buffer_count * SIZE_BYTES : (uintptr_t)memory;
	if (drmCommandWriteRead(files[index], DRM_AMDGPU_GEM_VA, &va, sizeof va))
		fail("%s has no place at 0x%llx", kind, (unsigned long long)va.va_address);
	return add(kind, memory, index, handle);
}

static uint32_t create(int file, uint64_t domain)
{
	union drm_amdgpu_gem_create args = { .in = { .bo_size = SIZE_BYTES, .alignment = 4096 } };

	args.in.domains = domain;
	if (drmIoctl(file, DRM_IOCTL_AMDGPU_GEM_CREATE, &args))
		fail("a buffer cannot be made");
	return args.out.handle;
}

static int file_of(unsigned index)
{
	if (index >= file_count)
		fail("no render file %u", index);
	return files[index];
}

static void make_bo(unsigned index)
{
	fill(map_both("bo", (int)index, create(file_of(index), AMDGPU_GEM_DOMAIN_VRAM), false));
}

static void make_system_bo(unsigned index)
{
	fill(map_both("sysbo", (int)index, create(file_of(index), AMDGPU_GEM_DOMAIN_GTT), false));
}

static void make_apart(unsigned index)
{
	fill(map_both("apart", (int)index, create(file_of(index), AMDGPU_GEM_DOMAIN_VRAM), true));
}

static void skip_handle(unsigned index)
{
	create(file_of(index), AMDGPU_GEM_DOMAIN_GTT);
}

/* Sharing. */

static int export_bo(unsigned index)
{
	int file = -1;

	if (index < buffer_count && buffers[index].kfd_handle) {
		struct kfd_export args = {
			.handle = buffers[index].kfd_handle,
			.flags = O_CLOEXEC | O_RDWR,
		};

		if (ioctl(descriptor_of("/dev/kfd"), KFD_EXPORT, &args))
			fail("buffer %u cannot be exported", index);
		return (int)args.file;
	}
	if (index >= buffer_count || buffers[index].file < 0)
		fail("buffer %u cannot be named to others", index);
	if (drmPrimeHandleToFD(files[buffers[index].file], buffers[index].handle,
			       DRM_CLOEXEC | DRM_RDWR, &file))
		fail("buffer %u cannot be exported", index);
	return file;
}

static void keep(unsigned index)
{
	int file = export_bo(index);

	buffers[index].kept = file;
}

/* A message between the processes: the seed of a buffer, and its dma-buf. */
struct message {
	struct msghdr header;
	struct iovec part;
	union {
		struct cmsghdr head;
		char space[CMSG_SPACE(sizeof(int))];
	} control;
	uint64_t seed;
};

static struct cmsghdr *prepare(struct message *message)
{
	struct cmsghdr *head = &message->control.head;

	message->part = (struct iovec){ &message->seed, sizeof message->seed };
	message->header = (struct msghdr){ .msg_iov = &message->part, .msg_iovlen = 1 };
	message->header.msg_control = message->control.space;
	message->header.msg_controllen = sizeof message->control.space;
	*head = (struct cmsghdr){ CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS };
	return head;
}

static void pass(unsigned index)
{
	struct message message;
	struct cmsghdr *head = prepare(&message);
	int file = export_bo(index);

	message.seed = buffers[index].seed;
	memcpy(CMSG_DATA(head), &file, sizeof file);
	if (sendmsg(other, &message.header, 0) < 0)
		fail("buffer %u cannot be passed", index);
	close(file);
}

static void import(unsigned index)
{
	struct message message;
	struct cmsghdr *head = prepare(&message);
	struct buffer *buffer;
	uint32_t handle = 0;
	int file = -1;

	if (recvmsg(other, &message.header, MSG_CMSG_CLOEXEC) != sizeof message.seed)
		fail("nothing was passed");
	memcpy(&file, CMSG_DATA(head), sizeof file);
	if (drmPrimeFDToHandle(file_of(index), file, &handle))
		fail("what was passed cannot be imported");
	close(file);
	buffer = map_both("import", (int)index, handle, false);
	buffer->seed = message.seed;
	buffer->imported = true;
}

#endif
