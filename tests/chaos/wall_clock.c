/* Preloaded, it sets a process's wall clock ahead, by the nanoseconds that the file named by WALL_CLOCK holds at each
 * look. Clocks that count since the boot stay as they are, as on a real machine. Of the waits until a moment of the
 * wall clock, it knows those that Python's multiprocessing makes. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NS 1000000000LL

static const int64_t *shared;
static int (*read_clock)(clockid_t, struct timespec *);
static int (*wait_until)(sem_t *, const struct timespec *);

__attribute__((constructor)) static void begin(void) {
    const char *path = getenv("WALL_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file >= 0) {
        void *found = mmap(NULL, sizeof *shared, PROT_READ, MAP_SHARED, file, 0);
        if (found != MAP_FAILED) shared = found;
        close(file);
    }
}

static int64_t ahead(void) { return shared ? __atomic_load_n(shared, __ATOMIC_RELAXED) : 0; }

static struct timespec moved(struct timespec at, int64_t by) {
    int64_t ns = at.tv_sec * NS + at.tv_nsec + by;
    struct timespec then = {ns / NS, ns % NS};
    if (then.tv_nsec < 0) then.tv_nsec += NS, then.tv_sec -= 1;
    return then;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    if (!read_clock) read_clock = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int failed = read_clock(clock, now);
    if (!failed && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE)) *now = moved(*now, ahead());
    return failed;
}

int gettimeofday(struct timeval *restrict now, void *restrict zone) {
    struct timespec at;
    (void)zone;
    if (clock_gettime(CLOCK_REALTIME, &at)) return -1;
    now->tv_sec = at.tv_sec;
    now->tv_usec = at.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *now) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (now) *now = at.tv_sec;
    return at.tv_sec;
}

int sem_timedwait(sem_t *restrict semaphore, const struct timespec *restrict until) {
    if (!wait_until) wait_until = (int (*)(sem_t *, const struct timespec *))dlsym(RTLD_NEXT, "sem_timedwait");
    struct timespec then = moved(*until, -ahead());
    return wait_until(semaphore, &then);
}
