/* A client of /dev/kvm that does what programs do with descriptors, memory, signals and processes.
 * `cargo xtask shim --check` builds it for arm64 and runs it under `ulna exec`. It prints a line for each check that fails
 * and ends with 0 when none did. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define RAM 0x80000000ull
#define LEN 0x100000ull
#define PC 0x6030000000100040ull
#define X0 0x6030000000100000ull

static int failed;
#define CHECK(c) do { if (!(c)) { printf("%d: %s (errno %d, %s)\n", __LINE__, #c, errno, strerror(errno)); failed++; } } while (0)

struct vm { int kvm, fd, vcpu; struct kvm_run *run; uint32_t *mem; };

static void set_reg(int vcpu, uint64_t id, uint64_t v)
{
	struct kvm_one_reg r = { .id = id, .addr = (uintptr_t)&v };
	CHECK(ioctl(vcpu, KVM_SET_ONE_REG, &r) == 0);
}

static uint64_t get_reg(int vcpu, uint64_t id)
{
	uint64_t v = 0;
	struct kvm_one_reg r = { .id = id, .addr = (uintptr_t)&v };
	CHECK(ioctl(vcpu, KVM_GET_ONE_REG, &r) == 0);
	return v;
}

static struct vm make(void *mem, const uint32_t *code, size_t size)
{
	struct vm v = { .mem = mem };
	v.kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	CHECK(v.kvm >= 0);
	v.fd = ioctl(v.kvm, KVM_CREATE_VM, 0);
	CHECK(v.fd >= 0);
	if (!mem)
		v.mem = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	memcpy(v.mem, code, size);
	struct kvm_userspace_memory_region r = { .guest_phys_addr = RAM, .memory_size = LEN, .userspace_addr = (uintptr_t)v.mem };
	CHECK(ioctl(v.fd, KVM_SET_USER_MEMORY_REGION, &r) == 0);
	CHECK(memcmp(v.mem, code, size) == 0);
	v.vcpu = ioctl(v.fd, KVM_CREATE_VCPU, 0);
	CHECK(v.vcpu >= 0);
	v.run = mmap(NULL, 0x2000, PROT_READ | PROT_WRITE, MAP_SHARED, v.vcpu, 0);
	CHECK(v.run != MAP_FAILED);
	struct kvm_vcpu_init init;
	CHECK(ioctl(v.fd, KVM_ARM_PREFERRED_TARGET, &init) == 0);
	CHECK(ioctl(v.vcpu, KVM_ARM_VCPU_INIT, &init) == 0);
	set_reg(v.vcpu, PC, RAM);
	return v;
}

static void drop(struct vm *v)
{
	munmap(v->run, 0x2000);
	close(v->vcpu);
	close(v->fd);
	close(v->kvm);
	munmap(v->mem, LEN);
}

/* ldr x1, [x0]; add x1, x1, #1; str x1, [x0]; movz x2, #0x1000, lsl 16; str w1, [x2]; b start */
static const uint32_t count[] = { 0xf9400001, 0x91000421, 0xf9000001, 0xd2a20002, 0xb9000041, 0x17fffffb };
static const uint32_t spin[] = { 0x14000000 };

static void memory(void)
{
	struct vm v = make(NULL, count, sizeof(count));
	volatile uint64_t *word = (void *)((char *)v.mem + 0x8000);
	*word = 41;
	set_reg(v.vcpu, X0, RAM + 0x8000);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == 0);
	CHECK(v.run->exit_reason == KVM_EXIT_MMIO && v.run->mmio.phys_addr == 0x10000000 && v.run->mmio.is_write);
	CHECK(*word == 42);
	/* A page that is given back is zero, for the guest too. */
	CHECK(madvise((void *)word, 0x1000, MADV_DONTNEED) == 0);
	CHECK(*word == 0);
	*word = 7;
	CHECK(madvise((void *)word, 0x1000, MADV_DONTNEED) == 0);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == 0);
	CHECK(*word == 1);
	/* Moved memory is the same memory. */
	void *to = mmap(NULL, LEN, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(mremap(v.mem, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to) == to);
	v.mem = to;
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == 0);
	CHECK(*(uint64_t *)((char *)to + 0x8000) == 2);
	drop(&v);

	/* Memory of malloc, and of a file. */
	void *m = NULL;
	CHECK(posix_memalign(&m, 0x1000, LEN * 2) == 0);
	v = make(m, count, sizeof(count));
	set_reg(v.vcpu, X0, RAM + 0x8000);
	*(uint64_t *)((char *)m + 0x8000) = 9;
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == 0);
	CHECK(*(uint64_t *)((char *)m + 0x8000) == 10);
	close(v.vcpu), close(v.fd), close(v.kvm);
	int f = memfd_create("x", 0);
	CHECK(ftruncate(f, LEN) == 0);
	m = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	void *again = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_SHARED, f, 0);
	close(f);
	v = make(m, count, sizeof(count));
	set_reg(v.vcpu, X0, RAM + 0x8000);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == 0);
	CHECK(*(uint64_t *)((char *)again + 0x8000) == 1);
	drop(&v);
}

static volatile uint64_t *busy_word;
static volatile int busy_stop;
static void *busy(void *p)
{
	uint64_t n = 0;
	while (!busy_stop)
		*busy_word = ++n;
	return (void *)n;
}

/* What another thread writes while its memory becomes a guest's is not lost. */
static void threads(void)
{
	for (int i = 0; i < 20; i++) {
		char *m = mmap(NULL, LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		memset(m, 1, LEN);
		busy_word = (void *)(m + LEN - 8);
		busy_stop = 0;
		pthread_t t;
		void *n;
		pthread_create(&t, NULL, busy, NULL);
		struct vm v = make(m, spin, sizeof(spin));
		uint64_t seen = *busy_word;
		busy_stop = 1;
		pthread_join(t, &n);
		CHECK(*busy_word == (uint64_t)n && seen <= (uint64_t)n);
		CHECK(m[0x5000] == 1);
		drop(&v);
	}
}

static void descriptors(void)
{
	struct vm v = make(NULL, count, sizeof(count));
	struct stat s;
	CHECK(fstat(v.kvm, &s) == 0 && S_ISCHR(s.st_mode));
	CHECK(stat("/dev/kvm", &s) == 0 && S_ISCHR(s.st_mode) && access("/dev/kvm", R_OK | W_OK) == 0);
	CHECK(ioctl(v.kvm, KVM_GET_API_VERSION, 0) == 12);
	CHECK(fcntl(v.fd, F_GETFD) == FD_CLOEXEC && fcntl(v.vcpu, F_GETFD) == FD_CLOEXEC);
	int d = dup(v.vcpu), e = fcntl(v.vcpu, F_DUPFD_CLOEXEC, 100);
	CHECK(d >= 0 && e >= 100);
	close(v.vcpu);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == -1 && errno == EBADF);
	set_reg(d, X0, RAM + 0x8000);
	close(d);
	/* The VM lives as long as its vCPU. */
	close(v.fd);
	CHECK(ioctl(e, KVM_RUN, 0) == 0);
	v.vcpu = e;
	char b[8];
	CHECK(read(e, b, 8) == -1 && errno == EINVAL);
	CHECK(mmap(NULL, 0x1000, PROT_READ, MAP_SHARED, v.kvm, 0) == MAP_FAILED && errno == ENODEV);
	/* None left. */
	struct rlimit l, few;
	getrlimit(RLIMIT_NOFILE, &l);
	int top = dup(0);
	few = l;
	few.rlim_cur = top;
	setrlimit(RLIMIT_NOFILE, &few);
	CHECK(ioctl(v.kvm, KVM_CREATE_VM, 0) == -1 && errno == EMFILE);
	setrlimit(RLIMIT_NOFILE, &l);
	close(top);
	int vm = ioctl(v.kvm, KVM_CREATE_VM, 0);
	CHECK(vm >= 0);
	/* The same number on the other descriptor. */
	struct kvm_arm_device_addr a = { .id = 1ull << 16, .addr = 0x8000000 };
	CHECK(ioctl(vm, KVM_ARM_SET_DEVICE_ADDR, &a) == -1 && errno != EFAULT);
	CHECK(ioctl(vm, KVM_RUN, 0) == -1 && (errno == EINVAL || errno == ENOTTY));
	struct kvm_create_device c = { .type = KVM_DEV_TYPE_ARM_VGIC_V3 };
	CHECK(ioctl(vm, KVM_CREATE_DEVICE, &c) == 0 && fcntl(c.fd, F_GETFD) == FD_CLOEXEC);
	struct kvm_device_attr t = { .group = KVM_DEV_ARM_VGIC_GRP_ADDR, .attr = KVM_VGIC_V3_ADDR_TYPE_DIST };
	CHECK(ioctl(c.fd, KVM_HAS_DEVICE_ATTR, &t) == 0);
	close(vm), close(c.fd);
	int stats = ioctl(v.vcpu, KVM_GET_STATS_FD, NULL);
	struct kvm_stats_header h;
	CHECK(stats >= 0 && read(stats, &h, sizeof(h)) == sizeof(h) && h.num_desc > 0);
	CHECK(pread(stats, &h, sizeof(h), 0) == sizeof(h) && h.name_size == 48);
	close(stats);
	v.fd = -1;
	drop(&v);
}

/* Wrong addresses are errnos. */
static void addresses(void)
{
	struct vm v = make(NULL, count, sizeof(count));
	struct kvm_one_reg r = { .id = PC, .addr = 8 };
	CHECK(ioctl(v.vcpu, KVM_GET_ONE_REG, &r) == -1 && errno == EFAULT);
	CHECK(ioctl(v.vcpu, KVM_SET_ONE_REG, &r) == -1 && errno == EFAULT);
	CHECK(ioctl(v.vcpu, KVM_GET_ONE_REG, (void *)16) == -1 && errno == EFAULT);
	CHECK(ioctl(v.vcpu, KVM_GET_REG_LIST, NULL) == -1 && errno == EFAULT);
	void *ro = mmap(NULL, 0x1000, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	r.addr = (uintptr_t)ro;
	CHECK(ioctl(v.vcpu, KVM_GET_ONE_REG, &r) == -1 && errno == EFAULT);
	CHECK(ioctl(v.vcpu, KVM_GET_MP_STATE, ro) == -1 && errno == EFAULT);
	/* Nothing is out of step after that. */
	CHECK(get_reg(v.vcpu, PC) == RAM);
	struct kvm_reg_list n = { .n = 0 };
	CHECK(ioctl(v.vcpu, KVM_GET_REG_LIST, &n) == -1 && errno == E2BIG && n.n > 100);
	struct kvm_reg_list *l = malloc(8 + n.n * 8);
	l->n = n.n;
	CHECK(ioctl(v.vcpu, KVM_GET_REG_LIST, l) == 0 && l->n == n.n && l->reg[0] != 0);
	free(l);
	struct kvm_irqfd i = { .fd = 9999 };
	CHECK(ioctl(v.fd, KVM_IRQFD, &i) == -1);
	struct kvm_ioeventfd e = { .addr = 0x10000000, .len = 4, .fd = eventfd(0, 0) };
	CHECK(ioctl(v.fd, KVM_IOEVENTFD, &e) == 0);
	set_reg(v.vcpu, X0, RAM + 0x8000);
	v.run->immediate_exit = 0;
	alarm(1);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == -1 && errno == EINTR);
	uint64_t w = 0;
	CHECK(read(e.fd, &w, 8) == 8 && w > 0);
	drop(&v);
}

static volatile int handled;
static void on_signal(int n) { handled++; }

static void *kick(void *p)
{
	struct timespec t = { 0, 30000000 };
	nanosleep(&t, NULL);
	pthread_kill(*(pthread_t *)p, SIGUSR1);
	return NULL;
}

static void signals(void)
{
	struct vm v = make(NULL, spin, sizeof(spin));
	pthread_t me = pthread_self(), t;
	handled = 0;
	pthread_create(&t, NULL, kick, &me);
	/* A handler that restarts calls does not restart this one. */
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == -1 && errno == EINTR && handled == 1);
	CHECK(v.run->exit_reason == KVM_EXIT_INTR);
	pthread_join(t, NULL);
	v.run->immediate_exit = 1;
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == -1 && errno == EINTR);
	v.run->immediate_exit = 0;
	/* Blocked here, not in KVM_RUN: it stays pending. */
	sigset_t set, old;
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	pthread_sigmask(SIG_BLOCK, &set, &old);
	struct { uint32_t len; uint64_t mask; } __attribute__((packed)) m = { 8, 0 };
	CHECK(ioctl(v.vcpu, KVM_SET_SIGNAL_MASK, &m) == 0);
	pthread_create(&t, NULL, kick, &me);
	handled = 0;
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == -1 && errno == EINTR && handled == 0);
	int n = 0;
	CHECK(sigwait(&set, &n) == 0 && n == SIGUSR1);
	pthread_join(t, NULL);
	CHECK(ioctl(v.vcpu, KVM_SET_SIGNAL_MASK, NULL) == 0);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	/* A signal that nobody wants ends nothing: the alarm does. */
	signal(SIGCHLD, SIG_DFL);
	if (fork() == 0)
		_exit(0);
	handled = 0;
	alarm(1);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == -1 && errno == EINTR && handled == 1);
	wait(NULL);
	drop(&v);
}

static void processes(void)
{
	struct vm v = make(NULL, count, sizeof(count));
	set_reg(v.vcpu, X0, RAM + 0x8000);
	fflush(stdout);
	pid_t p = fork();
	if (p == 0) {
		failed = 0;
		struct kvm_mp_state s;
		CHECK(ioctl(v.vcpu, KVM_GET_MP_STATE, &s) == -1 && errno == EIO);
		CHECK(ioctl(v.kvm, KVM_GET_API_VERSION, 0) == 12);
		struct vm w = make(NULL, count, sizeof(count));
		set_reg(w.vcpu, X0, RAM + 0x8000);
		CHECK(ioctl(w.vcpu, KVM_RUN, 0) == 0);
		fflush(stdout);
		_exit(failed != 0);
	}
	int status = -1;
	waitpid(p, &status, 0);
	CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
	CHECK(ioctl(v.vcpu, KVM_RUN, 0) == 0);
	drop(&v);
}

int main(int argc, char **argv)
{
	struct sigaction a = { .sa_handler = on_signal, .sa_flags = SA_RESTART };
	sigaction(SIGUSR1, &a, NULL);
	sigaction(SIGALRM, &a, NULL);
	memory();
	descriptors();
	addresses();
	signals();
	threads();
	processes();
	char b[64];
	int f = open("/sys/module/kvm/parameters/halt_poll_ns", O_RDONLY);
	CHECK(f >= 0 && read(f, b, sizeof(b)) > 0);
	CHECK(open("/sys/module/kvm_intel/parameters/ept", O_RDONLY) == -1 && errno == ENOENT);
	printf(failed ? "%d checks failed\n" : "all well\n", failed);
	return failed != 0;
}
