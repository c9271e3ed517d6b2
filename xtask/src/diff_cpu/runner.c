/* The reference side of `cargo xtask diff-cpu`, run under qemu-aarch64.
 *
 * Standard input: u64 number of cases, then the cases (conformance/src/el0.rs, Case). Standard output: one Outcome a
 * case. Every case runs between two signals: the handler of the BRK (or fault) that ends one case writes its outcome
 * from the signal frame and loads the next case into it, so the complete state goes in and out without a register of
 * our own. The code page is written once for the whole batch. */
#define _GNU_SOURCE
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#define CODE 0x1000000000ULL
#define CODE_LEN 0x200000ULL
#define SLOT 32
#define DATA 0x2000000000ULL
#define DATA_LEN 0x2000
#define BRK 0xd4200020u

struct regs {
	uint64_t x[31], sp, pc, pstate;
	uint32_t fpsr, fpcr;
	unsigned char v[32][16];
} __attribute__((packed));
struct test {
	struct regs regs;
	uint64_t mem_seed;
	uint32_t insns[4];
} __attribute__((packed));
struct outcome {
	struct regs regs;
	uint64_t signal, mem;
} __attribute__((packed));

static struct test *tests;
static struct outcome *out;
static uint64_t count, at;
static int started;

static void fill(uint64_t seed)
{
	uint64_t s = seed | 1, *p = (uint64_t *)DATA;

	for (int i = 0; i < DATA_LEN / 8; i++) {
		s ^= s >> 12;
		s ^= s << 25;
		s ^= s >> 27;
		p[i] = s * 0x2545f4914f6cdd1dULL;
	}
}

static uint64_t hash(void)
{
	uint64_t h = 0xcbf29ce484222325ULL, *p = (uint64_t *)DATA;

	for (int i = 0; i < DATA_LEN / 8; i++) {
		h = (h ^ p[i]) * 0x100000001b3ULL;
		h = h << 23 | h >> 41;
	}
	return h;
}

static struct fpsimd_context *fpsimd(ucontext_t *u)
{
	struct _aarch64_ctx *c = (void *)u->uc_mcontext.__reserved;

	while (c->magic != FPSIMD_MAGIC) {
		if (!c->magic)
			_exit(3);
		c = (void *)((char *)c + c->size);
	}
	return (void *)c;
}

static void write_all(const void *p, size_t n)
{
	while (n) {
		ssize_t w = write(1, p, n);
		if (w <= 0)
			_exit(4);
		p = (const char *)p + w;
		n -= w;
	}
}

static void handler(int sig, siginfo_t *info, void *ctx)
{
	ucontext_t *u = ctx;
	struct fpsimd_context *f = fpsimd(u);

	(void)info;
	if (started) {
		struct outcome *o = &out[at++];

		o->signal = sig;
		memcpy(o->regs.x, u->uc_mcontext.regs, sizeof(o->regs.x));
		o->regs.sp = u->uc_mcontext.sp;
		o->regs.pc = u->uc_mcontext.pc;
		o->regs.pstate = u->uc_mcontext.pstate & 0xf0000000;
		o->regs.fpsr = f->fpsr;
		o->regs.fpcr = f->fpcr;
		memcpy(o->regs.v, f->vregs, sizeof(o->regs.v));
		o->mem = hash();
	}
	started = 1;
	if (at == count) {
		write_all(out, count * sizeof(*out));
		_exit(0);
	}
	struct test *t = &tests[at];

	fill(t->mem_seed);
	memcpy(u->uc_mcontext.regs, t->regs.x, sizeof(t->regs.x));
	u->uc_mcontext.sp = t->regs.sp;
	u->uc_mcontext.pc = CODE + at * SLOT;
	u->uc_mcontext.pstate = t->regs.pstate & 0xf0000000;
	f->fpsr = t->regs.fpsr;
	f->fpcr = t->regs.fpcr;
	memcpy(f->vregs, t->regs.v, sizeof(t->regs.v));
}

static void read_all(void *p, size_t n)
{
	while (n) {
		ssize_t r = read(0, p, n);
		if (r <= 0)
			_exit(2);
		p = (char *)p + r;
		n -= r;
	}
}

int main(void)
{
	static char stack[65536] __attribute__((aligned(16)));
	stack_t ss = { .ss_sp = stack, .ss_size = sizeof(stack) };
	struct sigaction sa = { .sa_sigaction = handler, .sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER };
	const int sigs[] = { SIGTRAP, SIGILL, SIGSEGV, SIGBUS, SIGFPE };
	uint32_t *code;

	read_all(&count, 8);
	tests = malloc(count * sizeof(*tests));
	out = malloc(count * sizeof(*out));
	read_all(tests, count * sizeof(*tests));
	code = mmap((void *)CODE, CODE_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
	if (code == MAP_FAILED ||
	    mmap((void *)DATA, DATA_LEN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
		return 5;
	for (uint64_t i = 0; i < CODE_LEN / 4; i++)
		code[i] = BRK;
	for (uint64_t i = 0; i < count; i++)
		memcpy(&code[i * SLOT / 4], tests[i].insns, sizeof(tests[i].insns));
	mprotect(code, CODE_LEN, PROT_READ | PROT_EXEC);
	__builtin___clear_cache((char *)code, (char *)code + CODE_LEN);
	sigaltstack(&ss, NULL);
	for (unsigned i = 0; i < sizeof(sigs) / sizeof(*sigs); i++)
		sigaction(sigs[i], &sa, NULL);
	__asm__ volatile("brk #1");
	return 6;
}
