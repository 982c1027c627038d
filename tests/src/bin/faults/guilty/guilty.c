/* Commits every fault that native code can. */
#define _GNU_SOURCE

#include <menagerie.h>

#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

static const char *const when = "never";

static int deeper(volatile int depth) {
    volatile char room[4096];
    memset((void *)room, depth, sizeof room);
    return deeper(depth + 1) + room[0];
}

static void *dies(void *nothing) {
    (void)nothing;
    abort();
}

static void memory(void) {
    for (;;) {
        size_t size = 16 << 20;
        char *bytes = malloc(size);
        if (!bytes) abort();
        memset(bytes, 1, size);
    }
}

static void deadlock(void) {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&mutex);
    pthread_mutex_lock(&mutex);
}

static void garbage(void) {
    char nonsense[256];
    memset(nonsense, 0xee, sizeof nonsense);
    for (int fd = 3; fd < 256; fd++)
        if (send(fd, nonsense, sizeof nonsense, MSG_DONTWAIT | MSG_NOSIGNAL) < 0) continue;
}

/* Writes over all of the memory that the supervisor reads. */
static void scribble(void) {
    FILE *maps = fopen("/proc/self/maps", "r");
    char line[512];
    while (maps && fgets(line, sizeof line, maps)) {
        unsigned long from, to;
        char rights[8];
        if (strstr(line, "menagerie-up") && sscanf(line, "%lx-%lx %7s", &from, &to, rights) == 3 &&
            rights[1] == 'w')
            memset((void *)from, 0xa5, to - from);
    }
    if (maps) fclose(maps);
}

static void forks(void) {
    if (fork() == 0) {
        sleep(3);
        _exit(0);
    }
    _exit(1);
}

static void talks(void) {
    static char line[1 << 16];
    memset(line, 'x', sizeof line);
    line[sizeof line - 1] = '\n';
    for (int i = 0; i < 1600; i++)
        if (write(2, line, sizeof line) < 0) break;
}

static int commit(mg_call *call, void *userdata) {
    (void)userdata;
    mg_str name = mg_arg_str(call, 0);
    char fault[32] = "";
    memcpy(fault, name.ptr, name.len < sizeof fault ? name.len : sizeof fault - 1);
    volatile int *nowhere = NULL;
    pthread_t thread;
    if (!strcmp(fault, "null")) return mg_return_i64(call, *nowhere);
    if (!strcmp(fault, "abort")) abort();
    if (!strcmp(fault, "stack")) return mg_return_i64(call, deeper(0));
    if (!strcmp(fault, "exit0")) exit(0);
    if (!strcmp(fault, "exit1")) exit(1);
    if (!strcmp(fault, "thread")) {
        pthread_create(&thread, NULL, dies, NULL);
        pthread_join(thread, NULL);
    }
    if (!strcmp(fault, "memory")) memory();
    if (!strcmp(fault, "spin"))
        for (;;) (void)*(volatile char *)fault;
    if (!strcmp(fault, "deadlock")) deadlock();
    if (!strcmp(fault, "sleep")) sleep(600);
    if (!strcmp(fault, "close"))
        for (int fd = 0; fd < 1024; fd++) close(fd);
    if (!strcmp(fault, "garbage")) garbage();
    if (!strcmp(fault, "scribble")) scribble();
    if (!strcmp(fault, "stop")) raise(SIGSTOP);
    if (!strcmp(fault, "kill")) raise(SIGKILL);
    if (!strcmp(fault, "fork")) forks();
    if (!strcmp(fault, "stderr")) talks();
    return mg_return_null(call);
}

static int inc(mg_call *call, void *userdata) {
    (void)userdata;
    return mg_return_i64(call, mg_arg_i64(call, 0) + 1);
}

static int on_unload(mg_call *call, void *userdata) {
    (void)userdata;
    if (!strcmp(when, "unload")) abort();
    return mg_return_null(call);
}

int menagerie_init(const mg_host *host, mg_registrar *registrar) {
    (void)host;
    if (!strcmp(when, "init")) abort();
    if (mg_on_unload(registrar, on_unload, NULL) != MG_OK) return MG_FAILED;
    if (mg_add_function(registrar, "guilty@1", "inc", "n: i64", inc, NULL) != MG_OK)
        return MG_FAILED;
    return mg_add_function(registrar, "guilty@1", "commit", "fault: string", commit, NULL);
}
