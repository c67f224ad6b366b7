/* Loaded into User-Mode Linux: lets it run on processors whose registers need more room than it knows.
 *
 * It keeps 2696 bytes of a process's registers (AVX-512 and before). The host's kernel takes registers back only whole, and with
 * AMX they are some 11 KiB, so UML panics at its first process: "ptrace set fp regs failed". Here the rest is filled up with
 * zeros. Nothing in the guests uses AMX: the host would have to be asked for it first.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <elf.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/types.h>
#include <sys/uio.h>

#ifndef NT_X86_XSTATE
#define NT_X86_XSTATE 0x202
#endif

static long (*next)(int, pid_t, void *, void *);
/* Not on the stack: that of a UML thread is small. UML asks from one thread only. */
static char registers[1 << 16] __attribute__((aligned(64)));

__attribute__((constructor)) static void find_next(void) { *(void **)&next = dlsym(RTLD_NEXT, "ptrace"); }

static long set_whole(pid_t pid, const struct iovec *given) {
    static size_t size; /* the same for every process */
    if (size == 0) {
        struct iovec whole = {registers, sizeof registers};
        if (next(PTRACE_GETREGSET, pid, (void *)NT_X86_XSTATE, &whole) < 0)
            return -1;
        size = whole.iov_len;
        memset(registers, 0, sizeof registers); /* nothing beyond what UML knows is in use */
    }
    size_t known = given->iov_len < size ? given->iov_len : size;
    memcpy(registers, given->iov_base, known);
    struct iovec whole = {registers, size};
    return next(PTRACE_SETREGSET, pid, (void *)NT_X86_XSTATE, &whole);
}

long ptrace(enum __ptrace_request request, ...) {
    va_list more;
    va_start(more, request);
    pid_t pid = va_arg(more, pid_t);
    void *address = va_arg(more, void *), *data = va_arg(more, void *);
    va_end(more);
    if (request == PTRACE_SETREGSET && (unsigned long)address == NT_X86_XSTATE)
        return set_whole(pid, data);
    return next(request, pid, address, data);
}
