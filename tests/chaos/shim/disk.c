/* A disk whose power can be cut, for the store's server: preloaded, it watches what the server writes.
 *
 * DISK_STATE is a file of DISK_BYTES that all its processes map: how many calls are left until the power goes, which
 * half of that call still happens, and whether it has gone. DISK_LOG gets a line for whatever a real disk would know:
 *     S <inode> <size>       this file is on disk, up to this size (fsync, fdatasync)
 *     D                      the directory's entries are on disk (fsync on it)
 *     C <inode> <name>       a file was created
 *     R <from> <to> <kept>   a file was renamed; what was there before is kept under another name ('-': nothing was)
 *     U <name> <kept>        a file was removed; it is kept under another name
 * Only files below DISK_FOLDER, which ends with a slash, count. Each counted call is one chance for the power to go: then all processes of the
 * server's group are killed at once, and what any of them still does is noted by nobody.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { BEFORE, IN_THE_MIDDLE, AFTER };

struct disk {
    _Atomic long left;    /* counted calls until the power goes; negative: it stays */
    _Atomic long when;    /* BEFORE ... */
    _Atomic long gone;
    _Atomic long counted; /* calls until now */
    _Atomic long kept;    /* files kept under another name */
    atomic_flag lock;
};

static struct disk *disk;
static const char *folder;
static size_t folder_length;
static int log_fd = -1;

#define REAL(name) ((__typeof__(&name))real(#name))

static void *real(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    if (!found) abort();
    return found;
}

__attribute__((constructor)) static void begin(void) {
    const char *state = getenv("DISK_STATE"), *log = getenv("DISK_LOG");
    folder = getenv("DISK_FOLDER");
    if (!state || !log || !folder) return;
    folder = strdup(folder); /* the server writes its title over its environment */
    folder_length = strlen(folder);
    int fd = syscall(SYS_openat, AT_FDCWD, state, O_RDWR | O_CLOEXEC, 0);
    log_fd = syscall(SYS_openat, AT_FDCWD, log, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || log_fd < 0) abort();
    void *map = mmap(NULL, sizeof *disk, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED) abort();
    disk = map;
}

static void end(void) {
    kill(0, SIGKILL);
    for (;;) pause();
}

static void enter(void) {
    while (atomic_flag_test_and_set(&disk->lock)) sched_yield();
    if (atomic_load(&disk->gone)) {
        atomic_flag_clear(&disk->lock);
        end();
    }
}

static void leave(void) { atomic_flag_clear(&disk->lock); }

static void note(const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list values;
    va_start(values, format);
    int length = vsnprintf(line, sizeof line, format, values);
    va_end(values);
    if (syscall(SYS_write, log_fd, line, (size_t)length) != length) abort();
}

/* The power goes, if it is time: called with the lock held. */
static int is_the_last(void) {
    atomic_fetch_add(&disk->counted, 1);
    if (atomic_load(&disk->left) < 0) return 0;
    return atomic_fetch_sub(&disk->left, 1) == 0;
}

static void cut(void) {
    atomic_store(&disk->gone, 1);
    leave();
    end();
}

static int is_ours(const char *path) { return disk && strncmp(path, folder, folder_length) == 0; }

/* The absolute path of a descriptor, if it is below the folder. */
static int names(int fd, char *path) {
    char link[64];
    if (!disk) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return is_ours(path);
}

static int absolute(const char *path, char *whole) {
    if (!disk) return 0;
    if (path[0] == '/') {
        snprintf(whole, PATH_MAX, "%s", path);
    } else {
        char here[PATH_MAX];
        if (!getcwd(here, sizeof here)) return 0;
        if (snprintf(whole, PATH_MAX, "%s/%s", here, path) >= PATH_MAX) return 0;
    }
    return is_ours(whole);
}

/* --- data */

ssize_t write(int fd, const void *data, size_t size) {
    char path[PATH_MAX];
    if (!names(fd, path)) return REAL(write)(fd, data, size);
    enter();
    int last = is_the_last();
    long when = atomic_load(&disk->when);
    if (last && when == BEFORE) cut();
    ssize_t done = REAL(write)(fd, data, last && when == IN_THE_MIDDLE ? size / 2 : size);
    if (last) cut();
    leave();
    return done;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    char path[PATH_MAX];
    if (!names(fd, path)) return REAL(writev)(fd, parts, count);
    return write(fd, parts[0].iov_base, parts[0].iov_len); /* a short write: the caller goes on */
}

static int sync_with(int (*sync)(int), int fd) {
    char path[PATH_MAX];
    struct stat found;
    if (!disk || fstat(fd, &found) < 0) return sync(fd);
    int directory = S_ISDIR(found.st_mode);
    if (!names(fd, path)) return sync(fd);
    enter();
    int last = is_the_last();
    leave();
    if (last && atomic_load(&disk->when) != AFTER) {
        enter();
        cut();
    }
    fstat(fd, &found); /* what comes during the call isn't promised */
    int done = sync(fd);
    int error = errno;
    enter();
    if (done == 0 && directory) note("D\n");
    if (done == 0 && !directory) note("S %llu %lld\n", (unsigned long long)found.st_ino, (long long)found.st_size);
    if (last) cut();
    leave();
    errno = error;
    return done;
}

int fsync(int fd) { return sync_with(REAL(fsync), fd); }
int fdatasync(int fd) { return sync_with(REAL(fdatasync), fd); }

/* --- entries */

static int created(int fd, const char *path, int was_there) {
    struct stat found;
    if (fd >= 0 && !was_there && fstat(fd, &found) == 0) note("C %llu %s\n", (unsigned long long)found.st_ino, path);
    return fd;
}

static int open_with(const char *path, int flags, mode_t mode) {
    char whole[PATH_MAX];
    struct stat found;
    if (!(flags & O_CREAT) || !absolute(path, whole)) return syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    enter();
    int was_there = stat(whole, &found) == 0;
    if (!was_there && is_the_last()) cut();
    int fd = syscall(SYS_openat, AT_FDCWD, path, flags, mode);
    int error = errno;
    created(fd, whole, was_there);
    leave();
    errno = error;
    return fd;
}

int open(const char *path, int flags, ...) {
    va_list values;
    va_start(values, flags);
    mode_t mode = flags & O_CREAT ? va_arg(values, mode_t) : 0;
    va_end(values);
    return open_with(path, flags, mode);
}

int open64(const char *path, int flags, ...) {
    va_list values;
    va_start(values, flags);
    mode_t mode = flags & O_CREAT ? va_arg(values, mode_t) : 0;
    va_end(values);
    return open_with(path, flags | O_LARGEFILE, mode);
}

static FILE *fopen_with(FILE *(*with)(const char *, const char *), const char *path, const char *mode) {
    char whole[PATH_MAX];
    struct stat found;
    if (mode[0] == 'r' || !absolute(path, whole)) return with(path, mode);
    enter();
    int was_there = stat(whole, &found) == 0;
    FILE *file = with(path, mode);
    if (file) created(fileno(file), whole, was_there);
    leave();
    return file;
}

FILE *fopen(const char *path, const char *mode) { return fopen_with(REAL(fopen), path, mode); }
FILE *fopen64(const char *path, const char *mode) { return fopen_with(REAL(fopen64), path, mode); }

/* Keep what is there under another name, so that it can come back. */
static int keep(const char *path, char *kept) {
    snprintf(kept, PATH_MAX, "%s../kept-%ld", folder, atomic_fetch_add(&disk->kept, 1));
    return link(path, kept) == 0;
}

int rename(const char *from, const char *to) {
    char whole_from[PATH_MAX], whole_to[PATH_MAX], kept[PATH_MAX];
    int ours = absolute(to, whole_to);
    if (!absolute(from, whole_from) || !ours) return REAL(rename)(from, to);
    enter();
    int last = is_the_last();
    if (last && atomic_load(&disk->when) != AFTER) cut();
    int had = keep(whole_to, kept);
    int done = REAL(rename)(from, to);
    int error = errno;
    if (done == 0) note("R %s %s %s\n", whole_from, whole_to, had ? kept : "-");
    if (last) cut();
    leave();
    errno = error;
    return done;
}

int unlink(const char *path) {
    char whole[PATH_MAX], kept[PATH_MAX];
    if (!absolute(path, whole)) return REAL(unlink)(path);
    enter();
    int last = is_the_last();
    if (last && atomic_load(&disk->when) != AFTER) cut();
    int had = keep(whole, kept);
    int done = REAL(unlink)(path);
    int error = errno;
    if (done == 0 && had) note("U %s %s\n", whole, kept);
    if (last) cut();
    leave();
    errno = error;
    return done;
}
