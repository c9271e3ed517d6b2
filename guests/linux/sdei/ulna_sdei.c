// SPDX-License-Identifier: MIT OR GPL-2.0
/*
 * A client of Linux's SDEI driver: it takes event 0 (software signalled) and ulna's host event, and says where a CPU was
 * when one came. A CPU can be made to spin with all interrupts off until its handler was there.
 *
 *	echo "nmi N" >/proc/ulna_sdei     CPU N spins until the host's event comes
 *	echo "signal N" >/proc/ulna_sdei  CPU N spins, another CPU signals event 0 to it
 *	cat /proc/ulna_sdei               what both events met since then, a line each time
 *
 * The driver's functions are not exported: a kprobe that is never hit finds their addresses.
 */
#include <linux/arm-smccc.h>
#include <linux/arm_sdei.h>
#include <linux/completion.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/proc_fs.h>
#include <linux/seq_file.h>
#include <linux/uaccess.h>

#define HOST_NMI 0x40756c00
#define EVENT_SIGNAL 0xc400002f
#define MARK 0x5de10000UL
#define MPIDR_AFFINITY 0xff00ffffffUL
#define DAIF 0x3c0
#define MET 64

struct met {
	u32 event;
	int cpu;
	u64 pc, lr, pstate, x15;
	bool argument;
};

static struct met met[MET];
static atomic_t count;

static int (*event_register)(u32 event, sdei_event_callback *cb, void *arg);
static int (*event_enable)(u32 event);
static int (*event_disable)(u32 event);
static int (*event_unregister)(u32 event);

static struct {
	const char *name;
	void **to;
} found[] = {
	{ "sdei_event_register", (void **)&event_register },
	{ "sdei_event_enable", (void **)&event_enable },
	{ "sdei_event_disable", (void **)&event_disable },
	{ "sdei_event_unregister", (void **)&event_unregister },
};

static const u32 events[] = { 0, HOST_NMI };
static int argument;
static bool spinning[NR_CPUS], release[NR_CPUS];
static u64 affinity[NR_CPUS];

/* In the context of an NMI: notes, and prints nothing. */
static int handler(u32 event, struct pt_regs *regs, void *arg)
{
	int cpu = raw_smp_processor_id();
	unsigned int n = atomic_inc_return(&count) - 1;

	if (n < MET)
		met[n] = (struct met){
			.event = event,
			.cpu = cpu,
			.pc = regs->pc,
			.lr = regs->regs[30],
			.pstate = regs->pstate,
			.x15 = regs->regs[15],
			.argument = arg == &argument,
		};
	if (READ_ONCE(spinning[cpu]))
		WRITE_ONCE(release[cpu], true);
	return 0;
}

static noinline void ulna_spin_with_interrupts_off(int cpu)
{
	unsigned long daif;

	asm volatile("mrs %0, daif\n\tmsr daifset, #15" : "=r"(daif));
	/* x15 shows whether the driver gets the registers of what was interrupted. */
	asm volatile("	mov	x15, %0\n"
		     "	mov	w14, 1\n"
		     "	strb	w14, [%2]\n"
		     "1:	ldrb	w14, [%1]\n"
		     "	cbz	w14, 1b\n"
		     : : "r"(MARK + cpu), "r"(&release[cpu]), "r"(&spinning[cpu]) : "x14", "x15", "memory");
	WRITE_ONCE(spinning[cpu], false);
	asm volatile("msr daif, %0" : : "r"(daif) : "memory");
}

static DECLARE_COMPLETION(done);

static int spinner(void *data)
{
	int cpu = raw_smp_processor_id();
	u64 mpidr;

	asm volatile("mrs %0, mpidr_el1" : "=r"(mpidr));
	affinity[cpu] = mpidr & MPIDR_AFFINITY;
	release[cpu] = false;
	ulna_spin_with_interrupts_off(cpu);
	complete(&done);
	return 0;
}

static ssize_t control(struct file *file, const char __user *text, size_t len, loff_t *at)
{
	char line[32] = "";
	struct task_struct *task;
	struct arm_smccc_res res;
	bool signal;
	int cpu;

	if (len >= sizeof(line) || copy_from_user(line, text, len))
		return -EINVAL;
	signal = !strncmp(line, "signal ", 7);
	if (!signal && strncmp(line, "nmi ", 4))
		return -EINVAL;
	if (kstrtoint(strim(strchr(line, ' ')), 10, &cpu) || cpu < 0 || cpu >= nr_cpu_ids || !cpu_online(cpu))
		return -EINVAL;
	atomic_set(&count, 0);
	reinit_completion(&done);
	task = kthread_create_on_cpu(spinner, NULL, cpu, "ulna-spin/%u");
	if (IS_ERR(task))
		return PTR_ERR(task);
	if (signal && cpumask_weight(cpu_online_mask) > 1) {
		/* Not from the CPU that spins. */
		cpumask_t others;

		cpumask_andnot(&others, cpu_online_mask, cpumask_of(cpu));
		set_cpus_allowed_ptr(current, &others);
	}
	wake_up_process(task);
	if (signal) {
		while (!READ_ONCE(spinning[cpu]))
			schedule();
		arm_smccc_1_1_hvc(EVENT_SIGNAL, 0UL, affinity[cpu], &res);
		if (res.a0)
			pr_err("ulna-sdei: EVENT_SIGNAL: %ld\n", (long)res.a0);
	}
	wait_for_completion(&done);
	if (signal)
		set_cpus_allowed_ptr(current, cpu_possible_mask);
	return len;
}

static int dump(struct seq_file *s, void *v)
{
	int n, all = min(atomic_read(&count), MET);

	for (n = 0; n < all; n++) {
		struct met *m = &met[n];

		seq_printf(s, "event %x cpu %d at %ps daif %llx el %llu x15 %s arg %s\n", m->event, m->cpu, (void *)m->pc,
			   m->pstate & DAIF, m->pstate >> 2 & 3, m->x15 == MARK + m->cpu ? "ok" : "other",
			   m->argument ? "ok" : "wrong");
	}
	return 0;
}

static int open(struct inode *inode, struct file *file)
{
	return single_open(file, dump, NULL);
}

static const struct proc_ops ops = {
	.proc_open = open,
	.proc_read = seq_read,
	.proc_lseek = seq_lseek,
	.proc_release = single_release,
	.proc_write = control,
};

static void leave(int n)
{
	while (n--) {
		event_disable(events[n]);
		event_unregister(events[n]);
	}
}

static int __init start(void)
{
	int n, err;

	for (n = 0; n < ARRAY_SIZE(found); n++) {
		struct kprobe p = { .symbol_name = found[n].name };

		err = register_kprobe(&p);
		if (err) {
			pr_err("ulna-sdei: %s: %d\n", found[n].name, err);
			return err;
		}
		*found[n].to = p.addr;
		unregister_kprobe(&p);
	}
	for (n = 0; n < ARRAY_SIZE(events); n++) {
		err = event_register(events[n], handler, &argument);
		if (!err) {
			err = event_enable(events[n]);
			if (err)
				event_unregister(events[n]);
		}
		if (err) {
			pr_err("ulna-sdei: event %x: %d\n", events[n], err);
			leave(n);
			return err;
		}
	}
	if (!proc_create("ulna_sdei", 0600, NULL, &ops)) {
		leave(ARRAY_SIZE(events));
		return -ENOMEM;
	}
	pr_info("ulna-sdei: ready\n");
	return 0;
}

static void __exit stop(void)
{
	remove_proc_entry("ulna_sdei", NULL);
	leave(ARRAY_SIZE(events));
	pr_info("ulna-sdei: gone\n");
}

module_init(start);
module_exit(stop);
MODULE_DESCRIPTION("Client of SDEI for ulna's tests");
MODULE_LICENSE("Dual MIT/GPL");
