/* Fail or crash at the Nth system call that touches the files of a node.
 *
 * Loaded with LD_PRELOAD; steered through a small file that is mapped by whoever runs the node
 * (tests/crash/shim.py has its layout). Counts what Python, its SQLite and ctypes ask of libc, for
 * descriptors and paths below the places that DIZZYD_SHIM_PLACES names; passes on all else.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

#define ACTION_CRASH (-1)

struct control {
    uint32_t is_armed;
    uint32_t counted;
    uint32_t target; /* the number of the call to act at, from 1; 0: none */
    int32_t action;  /* an errno, or ACTION_CRASH */
    uint32_t times;  /* for how many calls from the target on */
    uint32_t hits;
    uint32_t pid;    /* the process meant; 0: every one */
    uint32_t unused;
    char hit[480];
    char trace[3072]; /* the names of what was counted, one letter each */
};

static struct control *control;
static char places[2048];

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("DIZZYD_SHIM");
    const char *named = getenv("DIZZYD_SHIM_PLACES");
    if (!path || !named || strlen(named) >= sizeof places) return;
    int opened = (int)syscall(SYS_openat, AT_FDCWD, path, O_RDWR | O_CLOEXEC);
    if (opened < 0) return;
    void *mapped = mmap(NULL, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, opened, 0);
    close(opened);
    if (mapped == MAP_FAILED) return;
    strcpy(places, named);
    control = mapped;
}

static int is_below(const char *path) {
    for (const char *place = places; *place;) {
        const char *end = strchrnul(place, ':');
        size_t length = (size_t)(end - place);
        if (!strncmp(path, place, length) && (path[length] == '/' || !path[length])) return 1;
        place = *end ? end + 1 : end;
    }
    return 0;
}

static int path_of(int descriptor, char *into, size_t size) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, into, size - 1);
    if (length < 0) return 0;
    into[length] = 0;
    return 1;
}

/* Whether the call is to go on: 1, or 0 with errno set. */
static int may(char letter, const char *name, int directory, const char *path) {
    char held[4096];
    if (!control || !control->is_armed) return 1;
    if (control->pid && control->pid != (uint32_t)getpid()) return 1;
    int kept = errno;
    if (path && *path == '/') {
        snprintf(held, sizeof held, "%s", path);
    } else {
        if (!path_of(directory, held, sizeof held)) { errno = kept; return 1; }
        if (path) {
            size_t length = strlen(held);
            snprintf(held + length, sizeof held - length, "/%s", path);
        }
    }
    errno = kept;
    if (!is_below(held)) return 1;
    uint32_t number = __atomic_add_fetch(&control->counted, 1, __ATOMIC_SEQ_CST);
    if (number <= sizeof control->trace) control->trace[number - 1] = letter;
    if (!control->target || number < control->target) return 1;
    if (number >= control->target + control->times) return 1;
    __atomic_add_fetch(&control->hits, 1, __ATOMIC_SEQ_CST);
    snprintf(control->hit, sizeof control->hit, "%s %.440s", name, held);
    if (control->action == ACTION_CRASH) {
        kill(getpid(), SIGKILL);
        for (;;) pause();
    }
    errno = control->action;
    return 0;
}

#define NEXT(type, name) \
    static type (*next)(); \
    if (!next) next = (type (*)())dlsym(RTLD_NEXT, name);

#define OPEN_MODE(flags) \
    mode_t mode = 0; \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list rest; va_start(rest, flags); mode = va_arg(rest, mode_t); va_end(rest); }

int open(const char *path, int flags, ...) {
    OPEN_MODE(flags) NEXT(int, "open")
    return may('o', "open", AT_FDCWD, path) ? next(path, flags, mode) : -1;
}
int open64(const char *path, int flags, ...) {
    OPEN_MODE(flags) NEXT(int, "open64")
    return may('o', "open", AT_FDCWD, path) ? next(path, flags, mode) : -1;
}
int openat(int directory, const char *path, int flags, ...) {
    OPEN_MODE(flags) NEXT(int, "openat")
    return may('o', "openat", directory, path) ? next(directory, path, flags, mode) : -1;
}
int openat64(int directory, const char *path, int flags, ...) {
    OPEN_MODE(flags) NEXT(int, "openat64")
    return may('o', "openat", directory, path) ? next(directory, path, flags, mode) : -1;
}
ssize_t write(int to, const void *from, size_t size) {
    NEXT(ssize_t, "write")
    return may('w', "write", to, NULL) ? next(to, from, size) : -1;
}
ssize_t pwrite(int to, const void *from, size_t size, off_t at) {
    NEXT(ssize_t, "pwrite")
    return may('w', "pwrite", to, NULL) ? next(to, from, size, at) : -1;
}
ssize_t pwrite64(int to, const void *from, size_t size, off64_t at) {
    NEXT(ssize_t, "pwrite64")
    return may('w', "pwrite", to, NULL) ? next(to, from, size, at) : -1;
}
int fsync(int of) {
    NEXT(int, "fsync")
    return may('s', "fsync", of, NULL) ? next(of) : -1;
}
int fdatasync(int of) {
    NEXT(int, "fdatasync")
    return may('s', "fdatasync", of, NULL) ? next(of) : -1;
}
int syncfs(int of) {
    NEXT(int, "syncfs")
    return may('s', "syncfs", of, NULL) ? next(of) : -1;
}
int ftruncate(int of, off_t size) {
    NEXT(int, "ftruncate")
    return may('t', "ftruncate", of, NULL) ? next(of, size) : -1;
}
int ftruncate64(int of, off64_t size) {
    NEXT(int, "ftruncate64")
    return may('t', "ftruncate", of, NULL) ? next(of, size) : -1;
}
int fchmod(int of, mode_t mode) {
    NEXT(int, "fchmod")
    return may('a', "fchmod", of, NULL) ? next(of, mode) : -1;
}
int futimens(int of, const struct timespec times[2]) {
    NEXT(int, "futimens")
    return may('a', "futimens", of, NULL) ? next(of, times) : -1;
}
int utimensat(int directory, const char *path, const struct timespec times[2], int flags) {
    NEXT(int, "utimensat")
    return may('a', "utimensat", directory, path) ? next(directory, path, times, flags) : -1;
}
int unlink(const char *path) {
    NEXT(int, "unlink")
    return may('u', "unlink", AT_FDCWD, path) ? next(path) : -1;
}
int unlinkat(int directory, const char *path, int flags) {
    NEXT(int, "unlinkat")
    return may('u', "unlinkat", directory, path) ? next(directory, path, flags) : -1;
}
int mkdir(const char *path, mode_t mode) {
    NEXT(int, "mkdir")
    return may('m', "mkdir", AT_FDCWD, path) ? next(path, mode) : -1;
}
int mkdirat(int directory, const char *path, mode_t mode) {
    NEXT(int, "mkdirat")
    return may('m', "mkdirat", directory, path) ? next(directory, path, mode) : -1;
}
int symlinkat(const char *target, int directory, const char *path) {
    NEXT(int, "symlinkat")
    return may('l', "symlinkat", directory, path) ? next(target, directory, path) : -1;
}
int linkat(int from, const char *old, int to, const char *new, int flags) {
    NEXT(int, "linkat")
    return may('l', "linkat", to, new) ? next(from, old, to, new, flags) : -1;
}
int rename(const char *old, const char *new) {
    NEXT(int, "rename")
    return may('r', "rename", AT_FDCWD, new) ? next(old, new) : -1;
}
int renameat(int from, const char *old, int to, const char *new) {
    NEXT(int, "renameat")
    return may('r', "renameat", to, new) ? next(from, old, to, new) : -1;
}
int rmdir(const char *path) {
    NEXT(int, "rmdir")
    return may('u', "rmdir", AT_FDCWD, path) ? next(path) : -1;
}
/* Listing and reading fail with EIO on a disk that dies. */
ssize_t pread(int of, void *into, size_t size, off_t at) {
    NEXT(ssize_t, "pread")
    return may('p', "pread", of, NULL) ? next(of, into, size, at) : -1;
}
ssize_t pread64(int of, void *into, size_t size, off64_t at) {
    NEXT(ssize_t, "pread64")
    return may('p', "pread", of, NULL) ? next(of, into, size, at) : -1;
}
long syscall(long number, ...) {
    va_list rest;
    long a[6];
    va_start(rest, number);
    for (int i = 0; i < 6; i++) a[i] = va_arg(rest, long);
    va_end(rest);
    NEXT(long, "syscall")
    if (number == SYS_openat2 && !may('o', "openat2", (int)a[0], (const char *)a[1])) return -1;
    if (number == SYS_renameat2 && !may('r', "renameat2", (int)a[2], (const char *)a[3])) return -1;
    return next(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
