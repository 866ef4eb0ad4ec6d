/* skewed FILE COMMAND…: a command, and all that it starts, whose clock on the wall is off by as many
   seconds as FILE says (eight bytes, read at each look). Its vDSO is hidden from it, so that each
   look at a clock is a system call, and what that has found is changed: libraries and programs of
   any kind are deceived, be they linked statically as libp2p's daemon is. Linux on x86_64. */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static long word(pid_t pid, unsigned long at) { return ptrace(PTRACE_PEEKDATA, pid, at, 0); }

static void hide_vdso(pid_t pid) {
    struct user_regs_struct r;
    if (ptrace(PTRACE_GETREGS, pid, 0, &r)) return;
    unsigned long at = r.rsp + 8 * (word(pid, r.rsp) + 2); /* argc, its words, a zero */
    while (word(pid, at)) at += 8;                         /* the environment, a zero */
    for (at += 8; word(pid, at) != AT_NULL; at += 16)
        if (word(pid, at) == AT_SYSINFO_EHDR) ptrace(PTRACE_POKEDATA, pid, at, AT_IGNORE);
}

static void start(char **command) {
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_gettimeofday, 5, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_time, 4, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_clock_gettime, 0, 4),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[0])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLOCK_REALTIME, 1, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, CLOCK_REALTIME_COARSE, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRACE),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {sizeof code / sizeof *code, code};
    ptrace(PTRACE_TRACEME, 0, 0, 0);
    raise(SIGSTOP);
    prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
    execvp(*command, command);
    perror(*command);
    _exit(127);
}

int main(int count, char **words) {
    if (count < 3) return 2;
    int file = open(words[1], O_RDONLY), status, code = 1;
    volatile long *skew = mmap(0, sizeof *skew, PROT_READ, MAP_SHARED, file, 0);
    if (skew == MAP_FAILED) return perror(words[1]), 2;
    pid_t first = fork(), pid;
    if (!first) start(words + 2);
    waitpid(first, &status, 0);
    ptrace(PTRACE_SETOPTIONS, first, 0,
           PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACECLONE | PTRACE_O_TRACEEXEC |
               PTRACE_O_TRACESECCOMP | PTRACE_O_TRACESYSGOOD | PTRACE_O_EXITKILL);
    ptrace(PTRACE_CONT, first, 0, 0);
    while ((pid = waitpid(-1, &status, __WALL)) > 0 || errno == EINTR) {
        if (pid <= 0) continue;
        if (WIFEXITED(status) || WIFSIGNALED(status)) {
            if (pid == first) code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
            continue;
        }
        struct user_regs_struct r;
        int event = status >> 16, signal = WSTOPSIG(status), next = PTRACE_CONT, with = 0;
        if (event == PTRACE_EVENT_SECCOMP)
            next = PTRACE_SYSCALL; /* until it has found something */
        else if (signal == (SIGTRAP | 0x80)) {
            ptrace(PTRACE_GETREGS, pid, 0, &r);
            unsigned long at = r.orig_rax == SYS_clock_gettime ? r.rsi : r.rdi;
            if ((long)r.rax >= 0 && at) ptrace(PTRACE_POKEDATA, pid, at, word(pid, at) + *skew);
            if (r.orig_rax == SYS_time) r.rax += *skew, ptrace(PTRACE_SETREGS, pid, 0, &r);
        } else if (event == PTRACE_EVENT_EXEC)
            hide_vdso(pid);
        else if (!event && signal != SIGSTOP) /* whoever is new stops once */
            with = signal;
        ptrace(next, pid, 0, with);
    }
    return code;
}
